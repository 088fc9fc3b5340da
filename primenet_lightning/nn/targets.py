"""Labels for the stages inside a foreign model, and their local losses back."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor, nn

from primenet_lightning.nn.numbers import WHOLE, Share


class Targets(NamedTuple):
    """What `local_targets` hands to the stages that run inside.

    Attributes:
        target: Class indices, ``(batch,)``.
        share: This process's share of the global batch.
    """

    target: Tensor
    share: Share


_HANDED: ContextVar[Targets | None] = ContextVar("primenet_local_targets", default=None)


def handed_targets() -> Targets | None:
    """Tell what the innermost `local_targets` hands out; None outside of all."""
    return _HANDED.get()


@contextmanager
def local_targets(target: Tensor, share: Share = WHOLE) -> Iterator[None]:
    """Hand the batch's labels to every stage, such as a `PrimeBlock`, that runs inside.

    Args:
        target: Class indices, ``(batch,)``.
        share: Of this process in the global batch, so that all processes choose the same capsule:
            ``BatchShare(len(target), target.device)`` of `primenet_lightning.training.batch_share`.

    Yields:
        Nothing; afterwards `collect_local_losses` has the losses.

    Example:
        >>> import torch
        >>> from primenet_lightning import PrimeBlock
        >>> model = torch.nn.Sequential(
        ...     PrimeBlock.multiscale(1, (8, 8), num_classes=3, channels=4, projection_channels=4),
        ...     torch.nn.Flatten(),
        ...     torch.nn.Linear(8 * 8 * 8, 3),
        ... )
        >>> images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
        >>> with local_targets(labels):
        ...     logits = model(images)
        >>> local = collect_local_losses(model)
        >>> list(local)
        ['0.k3', '0.k5', '0.k7', '0.projection']
        >>> (torch.nn.functional.cross_entropy(logits, labels) + sum(local.values())).backward()
    """
    token = _HANDED.set(Targets(target, share))
    try:
        yield
    finally:
        _HANDED.reset(token)


class Layer(nn.Module):
    """A layer that leaves local losses behind when it runs under `local_targets`.

    Attributes:
        waiting_losses: Scalars by name, until they are collected; None where there are none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting_losses: dict[str, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles go without losses that nobody collected, which are bound to a graph."""
        return self.__dict__ | {"waiting_losses": None}


def collect_local_losses(model: nn.Module) -> dict[str, Tensor]:
    """Take the local losses that the stages of a model left in their last forward pass under `local_targets`.

    They are handed out once: a second call without another forward pass finds none.

    Args:
        model: Any module with stages, such as `PrimeBlock` layers, inside.

    Returns:
        Scalars by name, the stage's path in the model and the learner's name joined by a dot.

    Example:
        >>> import torch
        >>> from primenet_lightning import PrimeBlock
        >>> block = PrimeBlock.multiscale(1, (8, 8), num_classes=3, channels=4, projection_channels=4)
        >>> with local_targets(torch.tensor([0, 1])):
        ...     features = block(torch.randn(2, 1, 8, 8))
        >>> list(collect_local_losses(block)), list(collect_local_losses(block))
        (['k3', 'k5', 'k7', 'projection'], [])
    """
    losses: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if not isinstance(module, Layer) or module.waiting_losses is None:
            continue
        for name, loss in module.waiting_losses.items():
            losses[f"{path}.{name}".lstrip(".")] = loss
        module.waiting_losses = None
    return losses
