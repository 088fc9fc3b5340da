"""MSDNet as a model of the engine."""

from typing import Any

from primenet_lightning.baselines.msdnet.budgeted import BudgetedExits
from primenet_lightning.baselines.msdnet.network import Equilibrium, MSDNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable


class MSDNet(BudgetedExits):
    """MSDNet, trained on the sum of its exits' cross-entropies (Huang et al., ICLR 2018).

    With an ``equilibrium`` it is the first phase of `IMTA`.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        equilibrium: ``"coarsest"`` or ``"all"``: layers learn from the mean of the exits behind them, see `MSDNetwork`.
            None: from their sum.
        optimizer: As in `EndToEnd`; the paper's is SGD with Nesterov momentum, see ``configs/systems/msdnet.yaml``.
        **options: Of `BudgetedExits`: ``exits``, ``spacing``, ``scales``, ``budget``, ....

    Raises:
        ValueError: As `BudgetedExits`, or if there is no such equilibrium.

    Example:
        >>> import torch
        >>> model = MSDNet(in_channels=1, image_size=(8, 8), exits=3, scales=2)
        >>> model(torch.zeros(2, 1, 8, 8)).shape, model.exit_costs
        (torch.Size([2, 10]), [462272, 1049920, 1736192])
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        num_classes: int = 10,
        equilibrium: Equilibrium | None = None,
        optimizer: OptimizerCallable = PaperAdam,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, image_size, num_classes, optimizer=optimizer, **options)

    def configure_backbone(self) -> MSDNetwork:
        """Build the network."""
        return MSDNetwork(self.in_shape[0], self.num_classes, self.plan, self.hparams["equilibrium"])
