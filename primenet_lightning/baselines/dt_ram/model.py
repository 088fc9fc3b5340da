"""DT-RAM, trained by the engine."""

from typing import Any

from primenet_lightning.baselines.dt_ram.curve import check_threshold
from primenet_lightning.baselines.dt_ram.network import AttentionNetwork
from primenet_lightning.baselines.dt_ram.recurrent import FirstLocation, RecurrentAttention
from primenet_lightning.baselines.dt_ram.stage import AttentionOptions, Gradient
from primenet_lightning.baselines.dynamic import DynamicLearner
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable


class DTRAMNet(DynamicLearner):
    """DT-RAM (Li et al. 2017): glimpses at an image, as many as it needs.

    The fit has two phases. In the first RAM (Mnih et al. 2014) learns to look and to answer after all glimpses; where
    it looks is drawn around the locator's answer, and learned by REINFORCE. In the second it is frozen but for its
    classifier, looks where the locator says, and the stop policy learns. In use nothing is drawn.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        steps: Most glimpses.
        patch: Pixels of a side of a glimpse.
        depth: Patches of a glimpse, each twice as large as the one before.
        glimpse_width: Features of what was seen, and of where.
        width: Of the recurrent core.
        locator_width: Of the locator's hidden layer; None is the authors' linear locator.
        first_location: ``"locator"``: the first glimpse is where the locator looks that has seen nothing; or
            ``"centre"``.
        deviation: Standard deviation of locations in training.
        every_step: Whether RAM's cross-entropy is the mean over steps 2 to the last, or that of the last step alone.
        stop_share: Share of the fit, its end, in which the stop policy learns; 0 is RAM alone, which never stops.
        stop_gradient: ``"expected"``: by the exact expectation over all steps; ``"sampled"``: by REINFORCE, the
            paper's.
        discount: Gamma: being right after n glimpses is worth gamma^n. At 1 looking is free.
        threshold: In use it stops where the probability is above this; best chosen on held-out images, see
            `threshold_curve`.
        optimizer: As in `EndToEnd`, of each of the four learners.
        **learning: Of `LocalLearner`: ``schedule``, ``accumulate_grad_batches``, ....

    Raises:
        ValueError: For sizes and options that are impossible.

    Example:
        >>> import torch
        >>> DTRAMNet(1, (28, 28), 10).eval()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    network: AttentionNetwork

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        num_classes: int = 10,
        steps: int = 7,
        patch: int = 8,
        depth: int = 1,
        glimpse_width: int = 128,
        width: int = 256,
        locator_width: int | None = None,
        first_location: FirstLocation = "locator",
        deviation: float = 0.22,
        every_step: bool = False,
        stop_share: float = 0.35,
        stop_gradient: Gradient = "expected",
        discount: float = 0.98,
        threshold: float = 0.5,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        check_threshold(threshold)
        self._options = AttentionOptions(steps, deviation, every_step, stop_share, stop_gradient, discount)
        super().__init__(
            in_channels=in_channels, image_size=image_size, num_classes=num_classes, optimizer=optimizer, **learning
        )
        self.build()

    def configure_network(self) -> AttentionNetwork:
        """Build the recurrent network and its stop policy."""
        names = ("patch", "depth", "glimpse_width", "width", "locator_width", "first_location")
        ram = RecurrentAttention(self.in_shape, self.num_classes, **{name: self.hparams[name] for name in names})
        return AttentionNetwork(ram, self.in_shape, self._options, self.hparams["threshold"])
