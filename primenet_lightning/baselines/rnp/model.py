"""RNP, trained by the engine."""

import math
from collections.abc import Sequence
from typing import Any

from primenet_lightning.baselines.dynamic import DynamicLearner
from primenet_lightning.baselines.rnp.backbone import PrunableConvNet
from primenet_lightning.baselines.rnp.decisions import Reward, check_balance
from primenet_lightning.baselines.rnp.network import PruningNetwork
from primenet_lightning.baselines.rnp.phases import PruningPhases
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable


class RNPNet(DynamicLearner):
    """Runtime neural pruning (Lin et al. 2017): for each image and layer an agent says how many channels are computed.

    There is no code of the authors, and widths, optimizers and lengths of the phases are not known: this is our RNP.
    The fit has phases. The network learns whole; then at widths at random, so that it bears to be pruned; then in
    rounds, in which first the agent learns by Q-learning, with the network fixed, and then the network at the widths
    that the agent chooses, with the agent fixed.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        widths: Channels of each 3x3 convolution.
        pool_after: Convolutions, counted from 1, that a 2x2 max pooling follows.
        groups: Groups of channels, of which 1 to all are computed.
        penalty: Reward of each group computed after the first, below 0.
        loss_weight: Weight, alpha, of an image's cross-entropy in the last reward; their product counts up to alpha.
            It should be about 1 in the mean of the images: take 10 for MNIST, and 1 for CIFAR-10.
        discount: Gamma.
        balance: Added to the value of each further group at inference: below 0 less is computed, above 0 more.
        pretraining: Share of the fit in which the network learns whole.
        random_pruning: Share in which it learns at random widths.
        rounds: Of agent and network, in what is left of the fit.
        agent_share: The agent's share of a round.
        optimizer: Makes the agent's optimizer.
        head_optimizer: Makes the network's; None takes ``optimizer``.
        **learning: Of `LocalLearner`: ``schedule``, ``accumulate_grad_batches``, ....

    Attributes:
        network: The convolutional network is ``network.backbone``, the agent ``network.agent``.

    Raises:
        ValueError: For sizes, shares and rewards that are impossible.

    Example:
        >>> import torch
        >>> model = RNPNet(1, (28, 28), 10, widths=(8, 32, 32, 32), pool_after=(1, 2)).eval()
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    network: PruningNetwork

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 64, 64),
        pool_after: Sequence[int] = (1, 2, 3),
        groups: int = 4,
        penalty: float = -0.1,
        loss_weight: float = 10.0,
        discount: float = 1.0,
        balance: float = 0.0,
        pretraining: float = 0.2,
        random_pruning: float = 0.3,
        rounds: int = 8,
        agent_share: float = 0.7,
        optimizer: OptimizerCallable = PaperAdam,
        head_optimizer: OptimizerCallable | None = None,
        **learning: Any,
    ) -> None:
        self._reward = _reward(penalty, loss_weight, discount)
        self._phases = PruningPhases(pretraining, random_pruning, rounds, agent_share)
        check_balance(balance)
        super().__init__(
            in_channels=in_channels,
            image_size=image_size,
            num_classes=num_classes,
            optimizer=optimizer,
            head_optimizer=head_optimizer,
            **learning,
        )
        self.build()

    def configure_network(self) -> PruningNetwork:
        """Build the convolutional network and its agent."""
        options = {name: self.hparams[name] for name in ("widths", "pool_after", "groups")}
        backbone = PrunableConvNet(self.in_shape, self.num_classes, **options)
        return PruningNetwork(backbone, self.in_shape, self._reward, self._phases, self.hparams["balance"])


def _reward(penalty: float, loss_weight: float, discount: float) -> Reward:
    if not -math.inf < penalty < 0:
        raise ValueError(
            f"penalty={penalty} must be below 0, or it is no price of computing, and finite; the paper's is -0.1"
        )
    if not 0 < loss_weight < math.inf:
        raise ValueError(f"loss_weight={loss_weight} must be above 0; 10 makes of a loss of 0.1 a reward of -1")
    if not 0 < discount <= 1:
        raise ValueError(f"discount={discount} must be above 0 and at most 1")
    return Reward(penalty, loss_weight, discount)
