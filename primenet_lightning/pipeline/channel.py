"""From one process to the next: tensors with a note each, sent in the background and received ahead.

A message is a note of fixed size and frames of fixed size, so that the receiver can ask for the next one before it
knows what comes. The first tensor sets the size of a frame; a smaller one is padded, a larger one takes several.
"""

import pickle
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

UNDER_WAY = 2
"""Messages that may be under way before the sender waits: one is read while the next one is written."""

NOTE_BYTES = 16384
"""Room for a note."""


class ProcessLost(ConnectionError):
    """Another process of the pipeline has ended.

    Args:
        rank: Of the process; None where nobody knows which.
        stages: That it had, in words.
    """

    def __init__(self, rank: int | None, stages: str = "") -> None:
        which = "a process" if rank is None else f"process {rank}"
        having = f", which had {stages}," if stages else ""
        super().__init__(
            f"{which} of the pipeline{having} has ended, and with it all others; what it said last tells why, and the "
            "run goes on from its last checkpoint"
        )
        self.rank = rank


class _Layout(NamedTuple):
    """How a tensor lies in memory: to the last bit, sums depend on it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str


class _Envelope(NamedTuple):
    """What comes before the frames; without a layout, the end."""

    note: Any
    layout: _Layout | None


class Sender:
    """Sends tensors to a process, in order, and goes on at once.

    Args:
        to: The process's rank.
        group: Of processes; None for all.
        note_bytes: Room for a note.
    """

    def __init__(self, to: int, group: ProcessGroup | None = None, note_bytes: int = NOTE_BYTES) -> None:
        self.to = to
        self.group = group
        self.note_bytes = note_bytes
        self._frame_bytes = 0
        self._under_way: deque[list[tuple[Any, Tensor]]] = deque()

    def send(self, note: Any, x: Tensor) -> None:
        """Send a tensor, which must not change until it has arrived.

        Args:
            note: Anything small that can be pickled.
            x: Of any shape and type.

        Raises:
            ProcessLost: If the other process has ended.
        """
        x = x.detach()
        if not _is_dense(x):
            x = x.contiguous()
        layout = _Layout(x.dtype, tuple(x.shape), x.stride(), x.device.type)
        flat = x.as_strided((x.numel(),), (1,), x.storage_offset()).cpu().view(torch.uint8)
        self._frame_bytes = self._frame_bytes or max(flat.numel(), 1)
        pieces = [self._packed(_Envelope(note, layout)), *_frames(flat, self._frame_bytes)]
        self._start(pieces)

    def close(self) -> None:
        """Say that nothing follows, and wait until all has arrived."""
        pieces = [self._packed(_Envelope(None, None))]
        if self._frame_bytes:  # which the receiver has asked for
            pieces.append(torch.zeros(self._frame_bytes, dtype=torch.uint8))
        self._start(pieces)
        while self._under_way:
            self._wait_for_oldest()

    def _packed(self, envelope: _Envelope) -> Tensor:
        written = pickle.dumps(envelope)
        if len(written) > self.note_bytes:
            raise ValueError(f"a note of {len(written)} bytes does not go into note_bytes={self.note_bytes}; raise it")
        packed = torch.zeros(self.note_bytes, dtype=torch.uint8)
        packed[: len(written)] = torch.frombuffer(bytearray(written), dtype=torch.uint8)
        return packed

    def _start(self, pieces: list[Tensor]) -> None:
        while len(self._under_way) >= UNDER_WAY:
            self._wait_for_oldest()
        message: list[tuple[Any, Tensor]] = []
        for piece in pieces:
            try:
                message.append((dist.isend(piece, self.to, self.group), piece))  # which keeps the memory
            except RuntimeError as error:
                raise ProcessLost(self.to) from error
        self._under_way.append(message)

    def _wait_for_oldest(self) -> None:
        for work, _ in self._under_way.popleft():
            wait_for(work, self.to)


class Receiver:
    """Receives what a `Sender` sends; always one message ahead.

    Args:
        source: Rank of the process that sends.
        group: Of processes; None for all.
        note_bytes: Room for a note, as the sender's.
    """

    def __init__(self, source: int, group: ProcessGroup | None = None, note_bytes: int = NOTE_BYTES) -> None:
        self.source = source
        self.group = group
        self.note_bytes = note_bytes
        self._frame_bytes = 0
        self._ahead: deque[tuple[Any, Tensor]] = deque()
        self._ask_for(note_bytes)

    def receive(self, device: torch.device | None = None) -> tuple[Any, Tensor]:
        """Take the next tensor, in memory of its own, laid out as the sender had it.

        Args:
            device: Where to; None for where the sender had it.

        Returns:
            Its note, and the tensor, ``(batch, ...)`` of a map.

        Raises:
            ProcessLost: If the other process has ended.
            RuntimeError: If it has closed its end.
        """
        envelope: _Envelope = pickle.loads(self._next().numpy().tobytes())
        layout = envelope.layout
        if layout is None:
            raise RuntimeError(f"process {self.source} of the pipeline has sent everything, but more was asked for")
        size = _bytes_of(layout)
        if not self._frame_bytes:
            self._frame_bytes = max(size, 1)
            self._ask_for(self._frame_bytes)
        count = max(-(-size // self._frame_bytes), 1)
        for _ in range(count - 1):
            self._ask_for(self._frame_bytes)
        frames = [self._next() for _ in range(count)]
        # before anything is computed: the next message comes in while this one is worked on
        self._ask_for(self.note_bytes)
        self._ask_for(self._frame_bytes)
        flat = frames[0] if count == 1 else torch.cat(frames)
        x = flat[:size].view(layout.dtype).as_strided(layout.shape, layout.strides)
        return envelope.note, x.to(layout.device if device is None else device)

    def close(self) -> None:
        """Wait until the sender has closed its end."""
        while self._ahead:
            self._next()

    def _ask_for(self, size: int) -> None:
        buffer = torch.empty(size, dtype=torch.uint8)
        try:
            self._ahead.append((dist.irecv(buffer, self.source, self.group), buffer))
        except RuntimeError as error:
            raise ProcessLost(self.source) from error

    def _next(self) -> Tensor:
        work, buffer = self._ahead.popleft()
        wait_for(work, self.source)
        return buffer


def wait_for(work: Any, rank: int) -> None:
    """Wait for something that another process has a part in.

    Args:
        work: Of torch.distributed.
        rank: Of the other process.

    Raises:
        ProcessLost: If that has ended.
    """
    try:
        work.wait()
    except RuntimeError as error:
        raise ProcessLost(rank) from error


def _is_dense(x: Tensor) -> bool:
    """Whether its numbers fill their memory without gaps, in whatever order."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length != 1 and stride != size:
            return False
        size *= length
    return True


def _bytes_of(layout: _Layout) -> int:
    return torch.Size(layout.shape).numel() * layout.dtype.itemsize


def _frames(flat: Tensor, size: int) -> list[Tensor]:
    """Cut bytes into frames; the last one is padded."""
    count = max(-(-flat.numel() // size), 1)
    if flat.numel() == count * size:
        return list(torch.split(flat, size))
    padded = torch.zeros(count * size, dtype=torch.uint8)
    padded[: flat.numel()] = flat
    return list(torch.split(padded, size))
