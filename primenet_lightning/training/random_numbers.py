"""Random numbers of a stage, such as dropout's, that do not depend on which stages ran before it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class KeyedRandom:
    """Random numbers keyed by seed, stage and batch.

    torch draws all random numbers from one sequence. So what a stage draws depends on what the stages before it have
    drawn, and stages that learn at the same time in several processes draw others than in one. Keyed, each stage has a
    sequence of its own for each batch, wherever it runs.

    Args:
        seed: Of the run.

    Attributes:
        step: Batches before this one.

    Example:
        >>> random = KeyedRandom(seed=0)
        >>> with random.of_stage(1):
        ...     first = torch.rand(3)
        >>> _ = torch.rand(100)
        >>> with random.of_stage(1):
        ...     again = torch.rand(3)
        >>> torch.equal(first, again)
        True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0

    def key(self, stage: int) -> int:
        """Tell what the sequence of a stage begins with.

        Args:
            stage: Its place in the network.

        Returns:
            A seed below 2^63.
        """
        text = f"{self.seed}/{stage}/{self.step}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    @contextmanager
    def of_stage(self, stage: int, device: torch.device | None = None) -> Iterator[None]:
        """Draw a stage's own random numbers; those of everyone else go on after it as if nothing had been drawn.

        Args:
            stage: Its place in the network.
            device: Where it runs.

        Yields:
            Nothing.
        """
        on_gpu = device is not None and device.type == "cuda"
        key = self.key(stage)
        before = torch.get_rng_state()
        before_on_gpu = torch.cuda.get_rng_state(device) if on_gpu and device is not None else None
        torch.default_generator.manual_seed(key)
        if on_gpu:
            with torch.cuda.device(device):  # which need not be the one that torch takes for the current
                torch.cuda.manual_seed(key)
        try:
            yield
        finally:
            torch.set_rng_state(before)
            if before_on_gpu is not None and device is not None:
                torch.cuda.set_rng_state(before_on_gpu, device)
