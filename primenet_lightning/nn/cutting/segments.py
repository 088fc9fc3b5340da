"""Segments: the parts of a cut model as stages of the engine."""

from collections.abc import Iterator

from torch import Tensor, nn

from primenet_lightning.nn.cutting.objectives import Objective
from primenet_lightning.nn.cutting.parts import Part
from primenet_lightning.nn.layers import check_input
from primenet_lightning.nn.losses import smoothed_cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.stages import LearnerOutput, Stage


class Images:
    """The images of the batch under way, for objectives that look at them.

    Attributes:
        current: ``(batch, channels, height, width)``; None between batches, and where nobody looks.
    """

    def __init__(self) -> None:
        self.current: Tensor | None = None


class Segment(Stage):
    """A part of a model as a stage: it learns from an objective of its own; the last one from the model's loss.

    Args:
        part: Of the model.
        objective: What it learns from; None for the last part, which gives the logits.
        name: Of the stage and its learner.
        images: Of the batch under way; None where no objective looks at them.
        label_smoothing: Of the model's own loss, that of the last part.

    Example:
        >>> import torch
        >>> from primenet_lightning.nn.cutting.cut import cut
        >>> first, last = cut(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), (4,), at=["2"])
        >>> output, = Segment(last, None).run_learners(torch.zeros(2, 8), torch.tensor([0, 2]))
        >>> output.learner, output.logits.shape
        ('head', torch.Size([2, 3]))
    """

    def __init__(
        self,
        part: Part,
        objective: Objective | None,
        name: str = HEAD,
        images: Images | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(name)
        self.loss = smoothed_cross_entropy(label_smoothing)
        self.part = part
        self.objective = objective
        self.in_shape = part.in_shape
        self.extra: list[nn.Parameter] = []
        self._images = images

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of what the part hands on for one image."""
        return self.part.out_shape

    @property
    def needs_next(self) -> bool:
        """Whether the objective looks at the part that follows."""
        return any(getattr(module, "needs_next_part", False) for module in self.modules())

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """One learner, with every parameter of part and objective that is not frozen."""
        parameters = [*self.parameters(), *self.extra]
        return {self.name: [parameter for parameter in parameters if parameter.requires_grad]}

    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Run the part and its objective; see `Stage.run_learners`."""
        check_input(x, self.in_shape, "part")
        x = x.detach()
        images = None
        if self._images is not None:
            if self.part.name == "":
                self._images.current = x
            images = self._images.current
        features = self.part(x)
        if self.objective is None:
            yield LearnerOutput(self.name, self.loss(features, target), features.detach(), features.detach())
            return
        loss, logits = self.objective(features, target, images)
        yield LearnerOutput(self.name, loss, logits.detach(), features.detach())

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Run the part; see `Stage.through`."""
        features: Tensor = self.part(x)
        return features
