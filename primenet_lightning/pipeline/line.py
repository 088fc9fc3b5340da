"""The processes of a pipeline in a row, each between the one before it and the one after it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from primenet_lightning.pipeline.channel import NOTE_BYTES, Receiver, Sender


class Line:
    """A row of processes through which batches go, first stages to last.

    Args:
        ranks: Of the processes, that of the first stages first.
        rank: Of this process.
        group: Of just these processes; None where they are all.
        note_bytes: Room for a note.

    Attributes:
        position: Of this process in the row.
    """

    def __init__(
        self, ranks: Sequence[int], rank: int, group: ProcessGroup | None = None, note_bytes: int = NOTE_BYTES
    ) -> None:
        self.ranks = list(ranks)
        self.position = self.ranks.index(rank)
        self.group = group
        self._receiver: Receiver | None = None
        self._sender: Sender | None = None
        if not self.is_first:
            self._receiver = Receiver(self.ranks[self.position - 1], group, note_bytes)
        if not self.is_last:
            self._sender = Sender(self.ranks[self.position + 1], group, note_bytes)

    @property
    def is_first(self) -> bool:
        """Whether images come in here."""
        return self.position == 0

    @property
    def is_last(self) -> bool:
        """Whether the head is here."""
        return self.position == len(self.ranks) - 1

    def receive(self, device: torch.device) -> tuple[Any, Tensor]:
        """Take what the process before has handed on.

        Args:
            device: Of this process.

        Returns:
            Its note, and the map, ``(batch, ...)``.

        Raises:
            ProcessLost: If that process has ended.
        """
        assert self._receiver is not None
        return self._receiver.receive(device)

    def send(self, note: Any, x: Tensor) -> None:
        """Hand something on to the process after, and go on at once.

        Args:
            note: Anything small that can be pickled.
            x: A map, ``(batch, ...)``.

        Raises:
            ProcessLost: If that process has ended.
        """
        assert self._sender is not None
        self._sender.send(note, x)

    def gather(self, value: Any) -> list[Any]:
        """Collect one small object of each process of the row; every one has to call it.

        Args:
            value: Anything that can be pickled.

        Returns:
            The objects, that of the first stages first, on every process.
        """
        gathered: list[Any] = [None] * len(self.ranks)
        dist.all_gather_object(gathered, (self.position, on_cpu(value)), group=self.group)
        return [value for _, value in sorted(gathered, key=lambda pair: int(pair[0]))]

    def of_last(self, value: Any) -> Any:
        """Learn what the last process of the row has; every one has to call it.

        Args:
            value: Anything that can be pickled.

        Returns:
            The last one's.
        """
        values = [on_cpu(value)]
        dist.broadcast_object_list(values, self.ranks[-1], group=self.group)
        return values[0]

    def close(self) -> None:
        """Wait until all that was sent has arrived; every process of the row has to call it."""
        if self._sender is not None:
            self._sender.close()
        if self._receiver is not None:
            self._receiver.close()


def on_cpu(value: Any) -> Any:
    """Bring tensors to the CPU: one on a GPU would be unpickled onto the GPU of the process that sent it.

    Args:
        value: Anything; looked at is what dictionaries, lists and tuples have inside.

    Returns:
        The same, with tensors of the same shapes.

    Example:
        >>> on_cpu({"metrics": [torch.ones(2)], "epoch": 3})
        {'metrics': [tensor([1., 1.])], 'epoch': 3}
    """
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: on_cpu(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(on_cpu(part) for part in value)
    return value
