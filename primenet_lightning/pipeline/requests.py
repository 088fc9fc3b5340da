"""What processes are asked for, such as to stop: told to the first stages, from where it goes down the row."""

from collections.abc import Sequence

from torch.distributed import Store  # type: ignore[attr-defined]


class Requests:
    """Passes requests from any process of a pipeline to those that have the first stages.

    Requests go down the row with the maps, so that all processes hear of one with the same batch. Only what another
    process was asked for comes this way; nobody waits for it.

    Args:
        store: Of all processes.
        listens: Whether this process has the first stages.

    Example:
        >>> from torch.distributed import HashStore
        >>> store = HashStore()
        >>> Requests(store, listens=False).hear([False, True])
        [False, True]
        >>> first = Requests(store, listens=True)
        >>> first.hear([False, False]), first.hear([False, False])
        ([False, True], [False, False])
    """

    KEY = "primenet_lightning/pipeline/requests"

    def __init__(self, store: Store, listens: bool) -> None:
        self.store = store
        self.listens = listens
        self._told: list[bool] = []

    def hear(self, flags: Sequence[bool]) -> list[bool]:
        """Tell what this process was asked for, or hear what others were.

        Args:
            flags: What this process was asked for.

        Returns:
            The same; with the first stages, also what others have told since the last time.
        """
        heard = list(flags)
        if not self.listens:
            if any(heard) and heard != self._told:
                self.store.set(self.KEY, "".join(str(int(flag)) for flag in heard))
            self._told = heard
            return heard
        if self.store.check([self.KEY]):
            told = self.store.get(self.KEY).decode()
            self.store.delete_key(self.KEY)
            heard = [flag or other == "1" for flag, other in zip(heard, told, strict=True)]
        return heard
