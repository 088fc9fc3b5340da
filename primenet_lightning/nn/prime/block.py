"""PrimeBlock: parallel capsules, a projection, and the routing between them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.nn.classifiers import LocalClassifier, local_classifier
from primenet_lightning.nn.fast import halve
from primenet_lightning.nn.in_place import unchanged
from primenet_lightning.nn.layers import check_input, size_after, trial_run
from primenet_lightning.nn.losses import LocalLossKind, LogitsLoss, cross_entropy, cross_entropy_of_each
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.prime.capsule_dict import CapsuleDict
from primenet_lightning.nn.prime.capsules import Capsule, conv_capsules
from primenet_lightning.nn.prime.projection import Projection
from primenet_lightning.nn.prime.pruning import PrunesCapsules
from primenet_lightning.nn.prime.router import GATE, LeastLoss, Router
from primenet_lightning.nn.prime.routes import BY_LABELS, EACH_SUREST, RouteHistory, least_loss, surest_maps
from primenet_lightning.nn.prime.shapes import MapShape, shape_handed_on
from primenet_lightning.nn.stages import LearnerOutput, StageOutput, logits_of

PROJECTION = "projection"
"""Name of the projection's own loss, where it has one."""


BlockOutput = StageOutput
"""What a block gives with targets, by its name in version 0.1."""


class PrimeBlock(PrunesCapsules):
    r"""Parallel capsules, of which one is routed, beside a projection of the input (section 3.3).

    .. math:: f_{next}(x) = [f_{\min}(x) \frown S(x)] \qquad \text{(equation 5)}

    The block detaches its input, and its capsules' maps before they leave: no gradient crosses it. In training with
    targets the capsule with the least mean loss of the batch is routed (equation 4); without targets, and in
    evaluation, the one that training lately routed most often. Another ``router`` settles, keeps all maps, or learns
    the choice.

    It is also a layer for any torch model: ``block(x)`` is a tensor, laid out channels last, as convolutions like it
    best, so that what follows flattens it by ``flatten`` or ``reshape``, not by ``view``. Inside
    ``with local_targets(y):`` every block of the model learns which labels the batch has, and `collect_local_losses`
    hands out the losses to be trained.

    Args:
        in_shape: Channels, height and width of the input.
        capsules: Capsules by name; all maps must have one shape.
        projection: From the input to a map of the capsules' spatial size; None leaves it out.
        projection_classifier: The projection's own classifier. With one, the projection learns locally, a fourth
            classifier beside three scales as in equation 2, and is detached too. None leaves its training to the
            loss that follows, as under the head.
        routing_window: Over how many of the latest batches the routing of training is remembered. A block inside a
            `PrimeNetwork` remembers nothing: there the network remembers joint routes.
        loss: The local loss, from logits ``(batch, classes)`` and targets ``(batch,)``, of the projection, and of
            capsules that have none of their own.
        router: What goes on of the capsules' maps, see `primenet_lightning.nn.prime.routers`; None is the paper's.

    Attributes:
        pooled: Whether a 2x2 max pool ends the block; a `PrimeNetwork` sets it.
        map_shape: Channels, height and width of what goes on, before that pool.
        out_shape: Channels, height and width of what goes on.

    Raises:
        ValueError: If the maps, or a map and the projection, disagree in shape, if a capsule cannot take the input,
            if a capsule has a name that is taken, or if there is no capsule.

    Example:
        >>> block = PrimeBlock.multiscale(3, (32, 32), num_classes=10, channels=16, projection_channels=8)
        >>> block(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 24, 32, 32])
        >>> out = block(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))
        >>> sorted(out.losses)
        ['k3', 'k5', 'k7', 'projection']
    """

    capsules: CapsuleDict
    in_shape: MapShape
    chooses = True  # also where the router makes its own of all maps: a joint route has an index for each block

    def __init__(
        self,
        in_shape: MapShape,
        capsules: Mapping[str, Capsule],
        projection: nn.Module | None,
        projection_classifier: nn.Module | None = None,
        routing_window: int = 256,
        loss: LogitsLoss = cross_entropy,
        router: Router | None = None,
    ) -> None:
        super().__init__()
        if not capsules:
            raise ValueError("capsules={} is empty; a block needs at least one capsule")
        for taken, whose in ((PROJECTION, "projection"), (GATE, "router")):
            if taken in capsules:
                raise ValueError(f"capsules has one named {taken!r}, the name of the {whose}'s loss; rename it")
        if projection is None and projection_classifier is not None:
            raise ValueError("projection_classifier is given but projection is None; give both or neither")
        self.in_shape = in_shape
        self.capsules = CapsuleDict(capsules)
        self.projection = projection
        self.projection_classifier = projection_classifier
        self.history = RouteHistory(routing_window)
        self.loss = loss
        self.router = LeastLoss() if router is None else router
        self.router.build(in_shape, len(capsules))
        self.pooled = False
        with trial_run(self):
            self.map_shape = shape_handed_on(in_shape, capsules, projection, self.router)

    @classmethod
    def multiscale(
        cls,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        reduce_channels: int = 32,
        channels: int = 64,
        projection_channels: int = 64,
        stride: int = 1,
        classifier: LocalClassifier = "pooled",
        local_loss: LocalLossKind = "cross_entropy",
        local_loss_options: Mapping[str, Any] | None = None,
        classifier_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "PrimeBlock":
        """Build the paper's block, its projection with a classifier of its own: a layer for any network.

        Args:
            in_channels: Channels of the input.
            image_size: Height and width of the input, in pixels.
            num_classes: Number of classes.
            kernel_sizes: One capsule per scale, odd.
            reduce_channels: Channels after each capsule's 1x1 convolution.
            channels: Channels of each capsule's map.
            projection_channels: Channels of the projection; 0 leaves it out.
            stride: Stride of capsules and projection.
            classifier: The local classifiers, see `local_classifier`.
            local_loss: What the capsules learn from, see `primenet_lightning.nn.losses.local_loss`.
            local_loss_options: Arguments of that loss.
            classifier_options: Further arguments of the local classifiers.
            **kwargs: ``routing_window``, ``loss`` and ``router`` of the block.

        Returns:
            A block whose output has ``channels + projection_channels`` channels, or as many as the router makes.
        """
        capsules = conv_capsules(
            in_channels,
            image_size,
            num_classes,
            kernel_sizes=kernel_sizes,
            reduce_channels=reduce_channels,
            channels=channels,
            stride=stride,
            classifier=classifier,
            loss=local_loss,
            loss_options=local_loss_options,
            classifier_options=classifier_options,
        )
        projection = projection_classifier = None
        if projection_channels:
            map_size = size_after(stride, image_size)
            projection = Projection.to_size((in_channels, *image_size), projection_channels, map_size)
            projection_classifier = local_classifier(classifier, projection_channels, map_size, num_classes)
        return cls((in_channels, *image_size), capsules, projection, projection_classifier, **kwargs)

    # -- what it is made of --------------------------------------------------------------------------------------------

    @property
    def out_shape(self) -> MapShape:
        """Channels, height and width of what goes on."""
        channels, height, width = self.map_shape
        return (channels, height // 2, width // 2) if self.pooled else self.map_shape

    @property
    def closed(self) -> bool:  # type: ignore[override]
        """Whether the projection, where there is one, learns from a loss of its own."""
        return self.projection is None or self.projection_classifier is not None

    @property
    def capsule_names(self) -> list[str]:
        """Names of the capsules, in routing order."""
        return self.capsules.names

    @property
    def loss_names(self) -> list[str]:
        """Names of the local losses: the capsules', then the projection's own if it has one, then a gate's."""
        return self.classifier_names + ([GATE] if self.router.learns else [])

    @property
    def classifier_names(self) -> list[str]:
        """Names of those who classify: the capsules, then the projection if it does."""
        return self.capsule_names + ([PROJECTION] if self.projection_classifier is not None else [])

    def capsule(self, index: int) -> Capsule:
        """Look up the capsule of an index, in routing order.

        Args:
            index: As routes have it.

        Returns:
            The capsule.
        """
        return self.in_order[index]

    @property
    def in_order(self) -> list[Capsule]:
        """The capsules, in routing order."""
        return self.capsules.in_order

    @property
    def choices(self) -> range:
        """Indices that a route may have here; one where the router makes its own of all maps."""
        return range(len(self.capsules) if self.router.chooses else 1)

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Who learns what: each capsule, the projection where it has a classifier, and a gate."""
        learners = {self.full_name(name): list(self.capsules[name].parameters()) for name in self.capsule_names}
        if self.projection is not None and self.projection_classifier is not None:
            parameters = [*self.projection.parameters(), *self.projection_classifier.parameters()]
            learners[self.full_name(PROJECTION)] = parameters
        gate = list(self.router.parameters())
        if gate:
            learners[self.full_name(GATE)] = gate
        return learners

    def left_to_next(self) -> list[nn.Parameter]:
        """Parameters that the loss which follows has to train: those of a projection without a classifier."""
        return [] if self.closed or self.projection is None else list(self.projection.parameters())

    def called_modules(self) -> list[nn.Module]:
        """The capsules, and the projection with its classifier, where there are any."""
        modules: list[nn.Module] = [*self.in_order]
        for module in (self.projection, self.projection_classifier):
            if module is not None:
                modules.append(module)
        return modules

    # -- a batch -------------------------------------------------------------------------------------------------------

    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Run the capsules, the projection where it learns here, and the gate; see `Stage.run_learners`."""
        check_input(x, self.in_shape, "block")
        x = x.detach()
        logits_of_capsules: list[Tensor] = []
        for name in self.capsule_names:
            output = self._run_capsule(name, x, target)
            assert output.logits is not None
            logits_of_capsules.append(output.logits)
            yield output
            del output  # or its graph lives on while the next capsule runs
        if self.projection is not None and self.projection_classifier is not None:
            with unchanged(x, "the projection", "the capsules"):
                projected = self.projection(x)
            with unchanged(projected, "the classifier of the projection", "the next block"):
                logits = self.projection_classifier(projected)
            loss = self.loss(logits, target)
            yield LearnerOutput(self.full_name(PROJECTION), loss, logits.detach(), projected.detach())
            del projected, logits, loss
        if self.router.learns:
            gate_loss = self.router.loss(x, cross_entropy_of_each(logits_of_capsules, target), share)
            assert gate_loss is not None
            yield LearnerOutput(self.full_name(GATE), gate_loss)

    def _run_capsule(self, name: str, x: Tensor, target: Tensor) -> LearnerOutput:
        capsule = self.capsules.named(name)
        with unchanged(x, f"capsule {name}", "the other capsules and the projection"):
            feature_map, logits = capsule(x)
        loss = self.loss(logits, target) if capsule.loss is None else capsule.loss(feature_map, logits, target)
        return LearnerOutput(self.full_name(name), loss, logits.detach(), feature_map.detach())

    def choose(self, x: Tensor, outputs: Sequence[LearnerOutput], values: Sequence[float], share: Share = WHOLE) -> int:
        """Choose by the router, equation 4 by default; see `Stage.choose`."""
        leader = self.router.route(values[: len(self.capsules)])
        return self.router.decide(x.detach(), leader, share)

    def settle(self, x: Tensor, outputs: Sequence[LearnerOutput], planned: int) -> int:
        """Take the planned capsule, that of least loss under ``"oracle"``, or none for all; see `Stage.settle`."""
        if planned == EACH_SUREST:
            return planned
        if planned == BY_LABELS:
            losses = torch.stack([output.loss for output in outputs[: len(self.capsules)]])
            planned = least_loss(losses.tolist())
        return self.router.decide(x, planned)

    def hand_on(self, x: Tensor, outputs: Sequence[LearnerOutput], choice: int) -> Tensor:
        """Join what the router makes of the maps with the projection, equation 5; see `Stage.hand_on`."""
        x = x.detach()
        capsules = outputs[: len(self.capsules)]
        maps = [output.feature_map for output in capsules if output.feature_map is not None]
        if choice == EACH_SUREST:
            routed = surest_maps(maps, list(logits_of(capsules).values()))
        else:
            routed = self.router.select(x, maps, choice)
        if self.projection is None:
            return self._join(routed, None)
        if self.closed:
            return self._join(routed, outputs[len(capsules)].feature_map)
        return self._join(routed, self.projection(x))

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Compute equation 5 without labels, the graph whole; see `Stage.through`."""
        # the maps first: the order of the sums in backward depends on it, in the last bit
        return self.join(x, self._routed(x, choice))

    def join(self, x: Tensor, routed: Tensor) -> Tensor:
        """Join a map with the projection, and pool them where a pool ends the block; the graph is whole.

        Args:
            x: The block's input, ``(batch, channels, height, width)``.
            routed: What the router makes of the capsules' maps, ``(batch, channels, height, width)``.

        Returns:
            What goes on, ``(batch, channels, height, width)``.
        """
        projected = None if self.projection is None else self.projection(x)
        return self._join(routed, projected)

    def isolated(self, x: Tensor, choice: int = 0) -> Tensor:
        """Compute equation 5 without labels; a projection without a classifier is left to the loss that follows."""
        x = x.detach()
        routed = self._routed(x, choice).detach()
        projected = None if self.projection is None else self.projection(x)
        if projected is not None and self.closed:
            projected = projected.detach()
        return self._join(routed, projected)

    def _routed(self, x: Tensor, choice: int) -> Tensor:
        check_input(x, self.in_shape, "block")
        if choice == BY_LABELS:
            raise ValueError("inference_routing='oracle' routes by labels; call network.evaluate with the labels")
        if choice == EACH_SUREST:
            maps, logits = zip(*[capsule(x) for capsule in self.in_order], strict=True)
            return surest_maps(maps, logits)
        return self.router.infer(x, [capsule.features for capsule in self.in_order], choice)

    def _join(self, routed: Tensor, projected: Tensor | None) -> Tensor:
        joined = routed if projected is None else torch.cat([routed, projected], dim=1)
        return halve(joined) if self.pooled else joined

    # -- in a foreign model --------------------------------------------------------------------------------------------

    def choice(self) -> int:
        """Take the capsule that the router has settled on, or that training lately took most often."""
        settled = self.router.settled
        return self.history.majority()[0] if settled is None else settled

    def remember(self, choice: int) -> None:
        """Take note of what a training batch took."""
        self.history.append((choice,))
