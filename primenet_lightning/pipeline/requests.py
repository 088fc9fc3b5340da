"""What processes are asked for, such as to stop: told to the first stages, from where it goes down the row."""

from collections.abc import Sequence

from torch.distributed import Store  # type: ignore[attr-defined]


class Requests:
    """Passes requests from any process of a pipeline to one that has the first stages.

    Requests go down the row with the maps, and round the replicas with the shares of a batch, so that all processes
    hear of one with the same batch. Only what a process without the first stages was asked for comes this way; nobody
    waits for it.

    Args:
        store: Of all processes.
        tells: Whether this process does not have the first stages.
        listens: Whether this process is the one that hears; what an earlier fit has left it forgets.

    Example:
        >>> from torch.distributed import HashStore
        >>> store = HashStore()
        >>> first = Requests(store, tells=False, listens=True)
        >>> Requests(store, tells=True, listens=False).hear([False, True])
        [False, True]
        >>> first.hear([False, False]), first.hear([False, False])
        ([False, True], [False, False])
    """

    KEY = "primenet_lightning/pipeline/requests"

    def __init__(self, store: Store, tells: bool, listens: bool) -> None:
        self.store = store
        self.tells = tells
        self.listens = listens
        self._told: list[bool] = []
        if listens and store.check([self.KEY]):
            store.delete_key(self.KEY)

    def hear(self, flags: Sequence[bool]) -> list[bool]:
        """Tell what this process was asked for, or hear what others were.

        Args:
            flags: What this process was asked for.

        Returns:
            The same; where this process listens, also what others have told since the last time.
        """
        heard = list(flags)
        if self.tells and any(heard) and heard != self._told:
            self.store.set(self.KEY, "".join(str(int(flag)) for flag in heard))
        self._told = heard
        if self.listens and self.store.check([self.KEY]):
            told = self.store.get(self.KEY).decode()
            self.store.delete_key(self.KEY)
            heard = [flag or other == "1" for flag, other in zip(heard, told, strict=True)]
        return heard
