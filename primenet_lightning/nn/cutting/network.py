"""CutNetwork: any model, cut into parts that learn by themselves, as a network of the engine."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.nn.cutting.balance import Balance, measured, on_copies
from primenet_lightning.nn.cutting.classifiers import ClassifierChoice, Place
from primenet_lightning.nn.cutting.cut import balanced_names, cut_at, pieces_of, refuse_places
from primenet_lightning.nn.cutting.frozen import KeepsFrozen, freeze
from primenet_lightning.nn.cutting.learning import Recipe
from primenet_lightning.nn.cutting.objectives import Objective
from primenet_lightning.nn.cutting.parts import Part, Piece
from primenet_lightning.nn.cutting.recipes import recipe as make_recipe
from primenet_lightning.nn.cutting.segments import Images, Segment
from primenet_lightning.nn.layers import check_input, random_numbers_kept
from primenet_lightning.nn.losses import smoothed_cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.network import Evaluation, StagedNetwork
from primenet_lightning.nn.stages import Route, StageRow
from primenet_lightning.nn.whole import WholeNetwork


class LocalShare(NamedTuple):
    """What parts learn from, as shares of a cut network in training.

    Attributes:
        parameters: Of all parameters, from 0 to 1.
        multiply_adds: Of those of a forward pass of all parts and local classifiers, from 0 to 1.
    """

    parameters: float
    multiply_adds: float


class CutNetwork(KeepsFrozen, StagedNetwork):
    """Any model, cut into parts that learn by themselves. Without labels it is the model.

    Args:
        model: From images to logits; its own modules are trained.
        in_shape: Channels, height and width of the images.
        at: Names of modules, in the order in which they run, that parts begin with.
        parts: Into how many parts to cut, where ``at`` is not given.
        balance: What these parts are to cost alike, their local classifiers included: ``"multiply_adds"``, ``"time"``
            or saved ``"activations"``.
        recipe: How the parts learn, see `primenet_lightning.nn.cutting.recipes.recipe`.
        local_classifier: Instead of the recipe's own, see `classifier_at`.
        frozen: Names of modules of the model that do not learn: they stay in evaluation mode, and no activations are
            saved of those that nothing comes before that learns.
        label_smoothing: Of the model's own loss, from which the last part learns: the share of the targets that is
            spread over all classes. Those of the other parts are the recipe's.

    Attributes:
        backbone: The model.
        objectives: What the parts but the last learn from, with their local classifiers.
        strictly_local: Whether no gradient crosses from one part to another, as with all recipes but ``"overlap"``.

    Raises:
        ValueError: If the model cannot be cut so, or the recipe has no such name or option.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        ...                       nn.Linear(128, 10))
        >>> network = CutNetwork(model, (1, 8, 8), parts=2, recipe="dgl")
        >>> network.loss_names, [stage.part.name for stage in network.stages]
        (['part0', 'head'], ['', '2'])
        >>> x = torch.randn(2, 1, 8, 8)
        >>> torch.equal(network(x), model(x))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        in_shape: tuple[int, ...],
        at: Sequence[str] = (),
        parts: int | None = None,
        balance: Balance = "multiply_adds",
        recipe: ClassifierChoice | Recipe = "greedy",
        local_classifier: ClassifierChoice | None = None,
        frozen: Sequence[str] = (),
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = model
        self.label_smoothing = label_smoothing
        self._in_shape = in_shape
        self.recipe = make_recipe(recipe, local_classifier)
        refuse_places(at, parts)
        if parts is None:
            cut_parts = cut_at(model, in_shape, at)
            pieces = pieces_of(model, in_shape, at)
        else:
            pieces = pieces_of(model, in_shape)
            cut_parts = cut_at(model, in_shape, self._balanced_names(pieces, parts, balance))
        self._build(cut_parts, pieces)
        self._frozen = freeze(model, frozen)

    def _balanced_names(self, pieces: Sequence[Piece], parts: int, balance: Balance) -> list[str]:
        """Where parts of about equal cost begin, the cost of their objectives included."""
        blocks = [piece.part for piece in pieces]

        def closing_costs(blocks: Sequence[Part]) -> list[float]:
            copied = [piece._replace(part=block) for piece, block in zip(pieces, blocks, strict=True)]
            return self._closing_costs(copied, parts, balance)

        closing = closing_costs(blocks) if balance == "time" else on_copies(blocks, closing_costs)
        return balanced_names(self.backbone, pieces, parts, balance, [*closing, 0.0])

    def _closing_costs(self, pieces: Sequence[Piece], parts: int, balance: Balance) -> list[float]:
        """What the objective of a part costs that ends with this piece, of each piece but the last."""
        of_model = next(pieces[0].part.model.parameters(), torch.empty(0))
        closing: list[float] = []
        with random_numbers_kept(of_model), of_model.device:  # what is built here is not what will be trained
            for index in range(len(pieces) - 1):
                objective = self.recipe.objective(self._place(pieces, index, 0, parts))
                alone = [_Alone(objective, self._in_shape)]
                (cost,) = measured(alone, pieces[index].gives.shape, timed=balance == "time")
                closing.append(cost.by(balance))
        return closing

    def _place(self, pieces: Sequence[Piece], last: int, index: int, parts: int) -> Place:
        """Where the objective of a part stands that ends with the piece ``last``."""
        classes = pieces[-1].gives.shape[0]
        return Place(index, parts, pieces[last].gives, self._in_shape, classes, pieces[last + 1 : -1], pieces[-1])

    def _build(self, parts: Sequence[Part], pieces: Sequence[Piece]) -> None:
        """Build the objectives and the stages of the parts."""
        # what each part but the last learns from
        names = [part.name for part in parts[1:]]
        begins = [index for index, piece in enumerate(pieces) if piece.part.name in names]
        ends = [*begins[1:], len(pieces)]
        objectives: list[Objective] = []
        for index, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            place = self._place(pieces, begin - 1, index, len(parts))
            place = place._replace(next_part=parts[index + 1], next_features=pieces[end - 1].gives)
            objectives.append(self.recipe.objective(place))
        self.objectives = nn.ModuleList(objectives)
        # they are built on the CPU, with the same first weights whatever the device of the model
        device = next((parameter.device for parameter in self.backbone.parameters()), None)
        if device is not None and device.type not in ("cpu", "meta"):
            self.objectives.to(device)
        self._images = Images() if any(objective.needs_images for objective in objectives) else None
        # the stages
        self._segments: list[Segment] = []  # a list, so that each module has one name in checkpoints: the model's
        for index, objective in enumerate(objectives):
            self._segments.append(Segment(parts[index], objective, f"part{index}", self._images, self.label_smoothing))
        self._segments.append(Segment(parts[-1], None, HEAD, self._images, self.label_smoothing))
        self._leave_the_rest_to_the_head()

    def _leave_the_rest_to_the_head(self) -> None:
        """Parameters that the forward pass does not use have a learner all the same."""
        owned = {id(parameter) for segment in self._segments for parameter in segment.parameters()}
        for parameter in self.backbone.parameters():
            if id(parameter) not in owned:
                self._segments[-1].extra.append(parameter)

    @property
    def strictly_local(self) -> bool:
        """Whether no gradient crosses from one part to another."""
        return self.recipe.strictly_local

    @property
    def stages(self) -> StageRow:
        """The parts, first to last."""
        return StageRow(self._segments)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return self._in_shape

    @property
    def num_classes(self) -> int:
        """Logits that the model gives for an image."""
        return self._segments[-1].out_shape[0]

    @property
    def loss_names(self) -> list[str]:
        """``part0``, ``part1``, ..., ``head``."""
        return [segment.name for segment in self._segments]

    def local_share(self) -> LocalShare:
        """Tell what local classifiers, and what else parts learn from, make up of this network in training.

        Returns:
            Their shares of parameters and of multiply-adds.
        """
        parts: list[nn.Module] = [segment.part for segment in self._segments]
        alone = [_Alone(segment.objective, self._in_shape) for segment in self._segments if segment.objective]
        # copied together, since an objective may look at the part that follows
        whole, local = on_copies([*parts, *alone], self._multiply_adds)
        own = sum(parameter.numel() for parameter in self.objectives.parameters())
        everything = sum(parameter.numel() for parameter in self.parameters())
        return LocalShare(own / everything, local / (whole + local))

    def _multiply_adds(self, copies: Sequence[nn.Module]) -> tuple[float, float]:
        """Those of the parts, which come first, and those of their objectives."""
        parts, objectives = copies[: len(self._segments)], copies[len(self._segments) :]
        whole = sum(cost.multiply_adds for cost in measured(parts, self._in_shape))
        local = 0.0
        for segment, objective in zip(self._segments, objectives, strict=False):
            (cost,) = measured([objective], segment.out_shape)
            local += cost.multiply_adds
        return whole, local

    def forward(self, x: Tensor) -> Tensor:
        """Classify images without labels: the uncut model.

        Args:
            x: Images, ``(batch, *in_shape)``.

        Returns:
            Logits, ``(batch, classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_input(x, self.in_shape, "network")
        logits: Tensor = self.backbone(x)
        return logits

    def evaluate(self, x: Tensor, target: Tensor, choices: Route | None = None) -> Evaluation:
        """Give the verdict of every learner; see `StagedNetwork.evaluate`."""
        evaluation = super().evaluate(x, target, choices)
        self.look_at(None)
        return evaluation

    def learned(self, route: Route) -> None:
        """Let go of the images; see `StagedNetwork.learned`."""
        self.look_at(None)

    def look_at(self, images: Tensor | None) -> None:
        """Keep the images for objectives that look at them; see `StagedNetwork.look_at`."""
        if self._images is not None:
            self._images.current = images


class UncutNetwork(KeepsFrozen, WholeNetwork):
    """The same model trained end to end: the twin that local learning is compared with.

    Args:
        model: From images to logits.
        in_shape: Channels, height and width of the images.
        frozen: Names of modules of the model that do not learn, see `CutNetwork`.
        label_smoothing: The share of the targets that is spread over all classes.

    Example:
        >>> network = UncutNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8))
        >>> network.loss_names, network.strictly_local
        (['head'], False)
    """

    strictly_local = False

    def __init__(
        self, model: nn.Module, in_shape: tuple[int, ...], frozen: Sequence[str] = (), label_smoothing: float = 0.0
    ) -> None:
        super().__init__(model, in_shape, smoothed_cross_entropy(label_smoothing))
        self._frozen = freeze(model, frozen)

    @property
    def backbone(self) -> nn.Module:
        """The model."""
        return self.model


class _Alone(nn.Module):
    """An objective as a module of features alone, to measure what it costs."""

    def __init__(self, objective: Objective, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.objective = objective
        self.image_shape = image_shape

    def forward(self, features: Tensor) -> Tensor:
        target: Any = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        images = features.new_zeros(len(features), *self.image_shape)
        loss: Tensor = self.objective(features, target, images).loss
        return loss.reshape(1, 1)
