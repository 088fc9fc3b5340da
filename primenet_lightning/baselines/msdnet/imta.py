"""IMTA as a model of the engine: what its second phase adds to a trained MSDNet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch import nn

from primenet_lightning.arguments import first_line
from primenet_lightning.baselines.msdnet.budgeted import BudgetedExits
from primenet_lightning.baselines.msdnet.collaboration import CollaboratingExits, OneForAll
from primenet_lightning.baselines.msdnet.network import MSDNetwork
from primenet_lightning.nn.first_weights import needs_first_weights
from primenet_lightning.runs.folder import checkpoint_in
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.checkpoint_files import read_checkpoint
from primenet_lightning.training.optimizers import OptimizerCallable
from primenet_lightning.training.refusals import description_of

ARCHITECTURE = (
    "in_channels",
    "num_classes",
    "exits",
    "base",
    "step",
    "spacing",
    "scales",
    "channels",
    "growth",
    "exit_channels",
)
"""Arguments in which both phases must agree."""

TEMPERATURE = 3.0
"""Of the authors' distillation."""

OTHER_STATISTICS = 0.05
"""How far means or deviations of pixels from 0 to 1 may be apart and still be of one normalisation."""

MODEL = "network.model."
"""What the names of the network's entries in a checkpoint begin with."""


class IMTA(BudgetedExits):
    """IMTA's second phase: exits of a trained MSDNet that collaborate, and learn from its last exit (Li et al. 2019).

    The first phase is an `MSDNet` with ``equilibrium``. Here its layers are frozen; new classifiers, each of which sees
    the answer of the exit before, learn by distillation, see `CollaboratingExits` and `OneForAll`.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        trained: The run of the first phase, or a checkpoint of it. None where a checkpoint of this class is loaded, or
            a fit of it goes on, which has all weights.
        teaching: The teacher's share of the loss, from 0 to 1; the labels have the rest.
        temperature: That softens the answers of teacher and exits.
        detached: Whether exits do not learn from the exits behind them, as in the paper; the authors' code lets them.
        optimizer: As in `EndToEnd`.
        **options: Of `BudgetedExits`: ``exits``, ``spacing``, ``scales``, ``budget``, ...; in the architecture the same
            as in the first phase.

    Raises:
        ValueError: As `BudgetedExits`; if the first phase cannot be loaded or is of another architecture, or if
            ``teaching`` or ``temperature`` is impossible.
        FileNotFoundError: If there is no such run or checkpoint.

    Example:
        >>> import torch
        >>> model = IMTA(in_channels=1, image_size=(8, 8), exits=3, scales=2)
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        num_classes: int = 10,
        trained: str | None = None,
        teaching: float = 0.9,
        temperature: float = TEMPERATURE,
        detached: bool = True,
        optimizer: OptimizerCallable = PaperAdam,
        **options: Any,
    ) -> None:
        if teaching == 0 and temperature != TEMPERATURE:
            raise ValueError(f"temperature={temperature} has nothing to do with teaching=0; leave it out")
        self._needs_first_phase = trained is not None and needs_first_weights()
        self._learned_from: dict[str, Any] | None = None
        super().__init__(in_channels, image_size, num_classes, optimizer=optimizer, **options)

    def configure_backbone(self) -> CollaboratingExits:
        """Build the network, on the layers of the first phase."""
        network = MSDNetwork(self.in_shape[0], self.num_classes, self.plan)
        if self._needs_first_phase:
            self._load_first_phase(network, self.hparams["trained"])
        return CollaboratingExits(network, self.hparams["detached"])

    def configure_losses(self) -> OneForAll:
        """Tell what the exits learn from: the labels, and the first phase's last exit; scalars."""
        return OneForAll(self.hparams["teaching"], self.hparams["temperature"])

    def _load_first_phase(self, network: MSDNetwork, trained: str) -> None:
        """Take the weights, and refuse those of another architecture."""
        path = checkpoint_in(Path(trained))
        advice = "give the run of an MSDNet, or a checkpoint of it"
        try:
            saved = read_checkpoint(path)
        except Exception as error:  # each kind of damage has its own
            raise ValueError(f"trained={trained} cannot be read ({first_line(error)}); {advice}") from error
        there = saved.get("hyper_parameters", {})
        if not there.keys() >= {*ARCHITECTURE, "equilibrium"}:
            raise ValueError(f"trained={trained} is of {saved.get('class_path', 'another model')}; {advice}")
        for name in ARCHITECTURE:
            if self.hparams[name] != there[name]:
                raise ValueError(
                    f"{name}={self.hparams[name]}, but trained={trained} has {name}={there[name]}; give the same"
                )
        size = tuple(there["image_size"])
        if tuple(self.in_shape[1:]) != size:
            raise ValueError(
                f"image_size={self.in_shape[1:]}, but trained={trained} learned from images of {size}; give the same"
            )
        self._learned_from = saved.get("data_description")
        weights = saved["state_dict"].items()
        network.load_state_dict({name.removeprefix(MODEL): value for name, value in weights if name.startswith(MODEL)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `BudgetedExits`; and loading it needs no file but itself."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"]["trained"] = None

    def on_train_start(self) -> None:
        """As in `BudgetedExits`, once it is known that the layers that are to be frozen have learned.

        Raises:
            ValueError: If they have not.
        """
        network = self.network.model
        assert isinstance(network, CollaboratingExits)
        norms = [part for part in network.trained.modules() if isinstance(part, nn.BatchNorm2d)]
        if norms and not any(int(norm.num_batches_tracked or 0) for norm in norms):
            raise ValueError(
                "trained=None leaves the frozen layers as they were drawn; train an MSDNet with equilibrium='coarsest' "
                "first, and give its run"
            )
        super().on_train_start()

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """Refuse what could not work with this Trainer and its data.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: The data; None takes the Trainer's.

        Raises:
            ValueError: As `BudgetedExits.check`; also if the layers that are to be frozen have learned from pixels that
                were normalised in another way.
        """
        super().check(trainer, stage, datamodule)
        described = description_of(trainer, datamodule)
        if stage == "fit" and self._learned_from is not None and described is not None:
            _refuse_normalization(self._learned_from, described)


def _refuse_normalization(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse pixels that are normalised in another way; statistics of another share of the images hardly differ."""
    for name in ("mean", "std"):
        for one, other in zip(before[name], now[name], strict=True):
            if abs(one - other) > OTHER_STATISTICS:
                raise ValueError(
                    f"the layers that are to be frozen learned from pixels normalised by {name}={before[name]}, and "
                    f"these data have {name}={now[name]}; give the same normalization"
                )
