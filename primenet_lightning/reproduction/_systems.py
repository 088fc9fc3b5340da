"""The systems that the paper compares with, as parts: how each is built and trained here."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule
from torch.optim import SGD, Adam

from primenet_lightning.baselines import IMTA, CondenseNet, DTRAMNet, MSDNet, OneNet, RNPNet
from primenet_lightning.datamodules import ImageDataModule

SMALL = 28
"""Images of fewer pixels a side are the digits', which get smaller patches, and are halved once."""

_sgd = partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
_nesterov = partial(_sgd, nesterov=True)

SGD_RECIPE = "SGD 0.1 along a cosine, momentum 0.9, weight decay 1e-4"
NESTEROV_RECIPE = "SGD 0.1 along a cosine, Nesterov's momentum 0.9, weight decay 1e-4"


class System(NamedTuple):
    """How a system is made and trained.

    Attributes:
        build: From the data, and options of the model.
        recipe: How it is trained, in a phrase.
        begins_with: The part whose best weights it begins with, as its option ``trained``.
    """

    build: Callable[..., LightningModule]
    recipe: str
    begins_with: str | None = None


def _built(kind: Any, **options: Any) -> Callable[..., LightningModule]:
    """Makes a network for the images of a data module."""

    def build(data: ImageDataModule, **more: Any) -> LightningModule:
        model: LightningModule = kind(data.in_channels, data.image_size, data.num_classes, **options, **more)
        return model

    return build


def _rnp(data: ImageDataModule, **more: Any) -> LightningModule:
    """As ``configs/systems/rnp.yaml``, or for images in colour as ``configs/systems/rnp_cifar10.yaml``."""
    sizes: dict[str, Any] = {"loss_weight": 1.0}
    if data.in_channels == 1:
        pool_after = (1, 2) if data.image_size[0] >= SMALL else (1,)
        sizes = {"loss_weight": 10.0, "widths": (8, 32, 32, 32), "pool_after": pool_after}
    build = _built(
        RNPNet,
        pretraining=0.22,
        optimizer=partial(Adam, lr=1e-3),
        head_optimizer=partial(Adam, lr=2e-3),
        schedule="cosine",
        **sizes,
    )
    return build(data, **more)


def _dt_ram(data: ImageDataModule, **more: Any) -> LightningModule:
    """As ``configs/systems/dt_ram.yaml``; on digits a glimpse sees a quarter of the image."""
    build = _built(
        DTRAMNet,
        patch=8 if data.image_size[0] >= SMALL else 4,
        locator_width=128,
        first_location="centre",
        stop_share=0.25,
        optimizer=partial(Adam, lr=2e-3),
        schedule="one_cycle",
    )
    return build(data, **more)


SYSTEMS: Mapping[str, System] = {
    "condensenet": System(_built(CondenseNet, size="86", optimizer=_nesterov, schedule="cosine"), NESTEROV_RECIPE),
    "msdnet": System(
        _built(MSDNet, equilibrium="coarsest", optimizer=_nesterov, schedule="cosine"),
        f"{NESTEROV_RECIPE}, gradient equilibrium",
    ),
    "imta": System(
        _built(IMTA, optimizer=_nesterov, schedule="cosine"),
        f"{NESTEROV_RECIPE}, on the frozen layers of MSDNet",
        begins_with="msdnet",
    ),
    "one": System(_built(OneNet, depth=32, optimizer=_sgd, schedule="cosine"), SGD_RECIPE),
    "rnp": System(
        _rnp,
        "Adam along a cosine, 0.002 for the network, 0.001 for its agent: whole, at random widths, both in turn",
    ),
    "dt_ram": System(
        _dt_ram, "Adam 0.002 in one cycle: RAM in three quarters of the fit, then the stop policy in the last"
    ),
}
"""By the name of the part."""
