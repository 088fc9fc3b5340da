"""PrimeBlock: parallel capsules, a projection, and the routing between them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.nn.classifiers import LocalClassifier, local_classifier
from primenet_lightning.nn.layers import at_least_float32, blank_input, check_input, size_after, trial_run
from primenet_lightning.nn.losses import LocalLoss, LocalLossKind, LogitsLoss, cross_entropy
from primenet_lightning.nn.numbers import WHOLE, Share, refuse_non_finite
from primenet_lightning.nn.prime.capsules import Capsule, conv_capsules
from primenet_lightning.nn.prime.projection import Projection
from primenet_lightning.nn.prime.router import GATE, LeastLoss, Router
from primenet_lightning.nn.prime.routes import RouteHistory, least_entropy, least_loss
from primenet_lightning.training.exchange import Average

PROJECTION = "projection"
"""Name of the projection's own loss, where it has one."""

OnLoss = Callable[[str, Tensor], None]
"""Is handed a loss's name and the loss as soon as it is known, to send it backward."""

_TARGET: ContextVar[Tensor | None] = ContextVar("primenet_local_target", default=None)
_AVERAGE: ContextVar[Average | None] = ContextVar("primenet_local_average", default=None)


class BlockOutput(NamedTuple):
    """What a block gives when it is given targets.

    Attributes:
        features: Routed map and projection, concatenated, ``(batch, channels, height, width)``, equation 5. No
            gradient flows into the map; into the projection only where it has no classifier of its own.
        losses: Local losses, scalars, by capsule name; also ``"projection"`` where that has its own classifier, and
            ``"gate"`` where the router learns.
        logits: Local logits, ``(batch, classes)``, by the names of those who classify.
        values: The losses as numbers on the host, by the same names; empty where routing needs none.
        route: Index of the capsule whose map was routed; where the router makes its own of all maps, of the one that
            it counts the batch for.
    """

    features: Tensor
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    values: dict[str, float]
    route: int


class PrimeBlock(nn.Module):
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
        out_shape: Channels, height and width of the output.

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

    capsules: nn.ModuleDict

    def __init__(
        self,
        in_shape: tuple[int, int, int],
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
        self.capsules = nn.ModuleDict(capsules)
        self.projection = projection
        self.projection_classifier = projection_classifier
        self.history = RouteHistory(routing_window)
        self.loss = loss
        self.router = LeastLoss() if router is None else router
        self.router.build(in_shape, len(capsules))
        self._order = list(capsules)
        self._pruned: dict[str, nn.Module] = {}
        with trial_run(self):
            self.out_shape = self._check_shapes()
        self._local_losses: dict[str, Tensor] | None = None

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
            kernel_sizes: One capsule a scale, odd.
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

    @property
    def capsule_names(self) -> list[str]:
        """Names of the capsules, in routing order."""
        return list(self.capsules)

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
        capsule = self.capsules[self.capsule_names[index]]
        assert isinstance(capsule, Capsule)
        return capsule

    @property
    def in_order(self) -> list[Capsule]:
        """The capsules, in routing order."""
        return [self.capsule(index) for index in range(len(self.capsules))]

    @property
    def choices(self) -> range:
        """Indices that a route may have here; one where the router makes its own of all maps."""
        return range(len(self.capsules) if self.router.chooses else 1)

    @property
    def decided(self) -> bool:
        """Whether the router has decided against capsules that are still here, so that `prune` would drop them."""
        return self.router.committed is not None and len(self.capsules) > 1

    def _check_shapes(self) -> tuple[int, int, int]:
        """Run two blank images through every part; return the output's shape or say what does not fit."""
        x = blank_input(self, self.in_shape)
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.capsule_names:
            try:
                feature_map, _ = self.capsules[name](x)
            except RuntimeError as error:
                raise ValueError(f"capsule {name} cannot take an input of shape {self.in_shape}: {error}") from error
            shapes[name] = tuple(feature_map.shape[1:])
        first, *others = shapes
        for name in others:
            if shapes[name] != shapes[first]:
                raise ValueError(
                    f"the maps of a block's capsules must agree in shape, but {first} gives {shapes[first]} and "
                    f"{name} gives {shapes[name]} from an input of {self.in_shape}"
                )
        if len(shapes[first]) != 3:
            raise ValueError(
                f"a feature map must be (batch, channels, height, width), but {first} gives {shapes[first]}"
            )
        channels, height, width = shapes[first]
        channels = self.router.out_channels(channels, len(shapes))
        if self.projection is not None:
            projected = tuple(self.projection(x).shape[1:])
            if projected[1:] != (height, width):
                raise ValueError(
                    f"the projection gives {projected} but the capsules {shapes[first]}; their heights and widths "
                    "must agree (has the projection the capsules' stride?)"
                )
            channels += projected[0]
        return channels, height, width

    def check_input(self, x: Tensor) -> None:
        """Refuse images of another shape or of integers.

        Args:
            x: What is to be ``(batch, channels, height, width)``, of the shape the block was built for.

        Raises:
            ValueError: If it has another shape, or is not floating point.
        """
        check_input(x, self.in_shape, "block")

    @overload
    def forward(self, x: Tensor, target: None = None) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, target: Tensor) -> BlockOutput: ...

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | BlockOutput:
        """Route a batch; with targets, also give the local losses.

        Args:
            x: ``(batch, channels, height, width)``, of the shape the block was built for.
            target: Class indices, ``(batch,)``.

        Returns:
            The concatenation of equation 5, ``(batch, *out_shape)``; with ``target``, a `BlockOutput`. In evaluation
            mode the targets serve the losses only: routing does not see them.

        Raises:
            ValueError: If the shape of ``x`` is another one, or if it is not floating point.
            NonFiniteError: If a local loss is NaN or infinite, in training.
        """
        settled = self.router.settled
        majority = self.history.majority()[0] if settled is None else settled
        given, target = target is not None, _TARGET.get() if target is None else target
        if target is None:
            return self.infer(x, majority)
        if not self.training:
            return self.evaluate(x, target, majority) if given else self.infer(x, majority)
        output = self.learn(x, target, _AVERAGE.get())
        self.history.append((output.route,))
        if given:
            return output
        self._local_losses = output.losses
        return output.features

    def learn(
        self, x: Tensor, target: Tensor, average: Average | None = None, on_loss: OnLoss | None = None
    ) -> BlockOutput:
        """Compute every local loss and route by the least, equation 4. Remembers nothing.

        Args:
            x: ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.
            average: Averages the losses, ``(losses,)``, over several processes before routing compares them, so that
                all of them choose the same capsule; see `primenet_lightning.training.exchange.BatchShare`.
            on_loss: Takes each loss, a scalar, as soon as it is known, before the next capsule runs, to send it
                backward: the activations of one capsule are alive at a time. The losses that are returned then have
                no graph.

        Returns:
            Losses whose graphs are disjoint, and what goes on.

        Raises:
            NonFiniteError: If a local loss is NaN or infinite.
        """
        maps, projected, losses, logits = self._local(x, target, on_loss)
        if (gate := self._gate_loss(x, logits, target, average)) is not None:
            if on_loss is not None:
                on_loss(GATE, gate)
                gate = gate.detach()
            losses[GATE] = gate
        values = self._on_host(losses, average)
        refuse_non_finite(values)
        index = self.router.route(list(values.values())[: len(maps)])
        index = self.router.decide(x.detach(), index, _share_of(average))
        chosen = self.router.select(x.detach(), [feature_map.detach() for feature_map in maps], index)
        return BlockOutput(_join(chosen, projected), losses, logits, values, index)

    def _gate_loss(
        self, x: Tensor, logits: Mapping[str, Tensor], target: Tensor, average: Average | None = None
    ) -> Tensor | None:
        """What a router that learns learns from: each capsule's cross-entropy on each image."""
        if not self.router.learns:
            return None
        scores = at_least_float32(torch.stack([logits[name].detach() for name in self.capsule_names]))
        each = functional.cross_entropy(scores.flatten(0, 1), target.repeat(len(scores)), reduction="none")
        return self.router.loss(x.detach(), each.view(scores.shape[:2]), _share_of(average))

    @torch.no_grad()
    def evaluate(self, x: Tensor, target: Tensor, routing: int | Literal["min_entropy", "oracle"]) -> BlockOutput:
        """Compute every capsule, as monitoring wants it, and route as inference does. Remembers nothing.

        Args:
            x: ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``; seen by the losses, and by routing only if it is ``"oracle"``.
            routing: A capsule's index, ``"min_entropy"`` or ``"oracle"``.

        Returns:
            Losses, logits and what goes on. The route under ``"min_entropy"`` is -1: each sample has its own.
        """
        maps, projected, losses, logits = self._local(x, target)
        if (gate := self._gate_loss(x, logits, target)) is not None:
            losses[GATE] = gate
        values = self._on_host(losses) if routing == "oracle" else {}
        if routing == "min_entropy":
            index, chosen = -1, _surest(maps, [logits[name] for name in self.capsule_names])
        else:
            index = least_loss(list(values.values())[: len(maps)]) if routing == "oracle" else routing
            index = self.router.decide(x, index)
            chosen = self.router.select(x, maps, index)
        return BlockOutput(_join(chosen, projected), losses, logits, values, index)

    def infer(self, x: Tensor, routing: int | Literal["min_entropy"]) -> Tensor:
        """Route without labels. Only what the router needs is computed: with an index, one capsule's features.

        Args:
            x: ``(batch, channels, height, width)``.
            routing: A capsule's index, which a router that makes its own of all maps does not need, or
                ``"min_entropy"``: each sample takes its surest capsule.

        Returns:
            The concatenation of equation 5, ``(batch, *out_shape)``.
        """
        self.check_input(x)
        x = x.detach()
        if routing == "min_entropy":
            outputs = [capsule(x) for capsule in self.in_order]
            chosen = _surest([feature_map for feature_map, _ in outputs], [logits for _, logits in outputs])
        else:
            chosen = self.router.infer(x, [capsule.features for capsule in self.in_order], routing)
        projected = None if self.projection is None else self.projection(x)
        if projected is not None and self.projection_classifier is not None:
            projected = projected.detach()
        return _join(chosen.detach(), projected)

    # -- pruning -------------------------------------------------------------------------------------------------------

    def prune(self) -> list[str]:
        """Drop, for good, all capsules but the one that the router has committed to; their parameters are freed.

        That is so whoever else refers to them. What an optimizer remembers of them, in a foreign model, is the
        optimizer's: drop these parameters there, and build it after a pruned checkpoint was loaded. Of a block inside a
        `PrimeNetwork` the network's ``prune`` takes care.

        Returns:
            Names of the capsules dropped; empty if the router has not committed, or all is done.

        Example:
            >>> from primenet_lightning.nn.prime.lasting import Commit
            >>> router = Commit(warm_up=100)
            >>> block = PrimeBlock.multiscale(1, (8, 8), 3, channels=4, projection_channels=0, router=router)
            >>> block.prune()
            []
            >>> router.commit(2)
            >>> block.prune(), block.capsule_names
            (['k3', 'k5'], ['k7'])
        """
        kept = self.router.committed
        if kept is None or not self.decided:
            return []
        names = self.capsule_names
        gone = {name: self.capsules.pop(name) for name in names if name != names[kept]}
        shared = {id(tensor) for tensor in (*self.parameters(), *self.buffers())}
        for name, capsule in gone.items():
            # its form alone, without memory: a checkpoint of before may be loaded again
            self._pruned[name] = copy.deepcopy(capsule).to("meta")
            for tensor in (*capsule.parameters(), *capsule.buffers()):
                if id(tensor) not in shared:
                    tensor.grad, tensor.data = None, tensor.data.new_empty(0)
        self.router.pruned_to(kept)
        self.history.reduce_to_one(0)
        return list(gone)

    def match_capsules(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Prune, or take back, what a checkpoint prunes, or has; before it is loaded.

        Args:
            state_dict: Of a model that has this block inside.
            prefix: What the names of the block's entries begin with, ``"network.blocks.0."``.
        """
        start = f"{prefix}capsules."
        there = {key[len(start) :].partition(".")[0] for key in state_dict if key.startswith(start)}
        if self.router.prunes and len(there) == 1 and there < set(self.capsules):
            self.router.commit(self.capsule_names.index(there.pop()))
            self.prune()
        elif self._pruned and there == self.capsules.keys() | self._pruned.keys():
            self._take_back()

    def _take_back(self) -> None:
        """Make the pruned capsules again, in their old places, with memory that is not yet filled."""
        like = next(self.parameters())
        everyone = dict(self.capsules.items())
        for name, form in self._pruned.items():
            everyone[name] = form.to_empty(device=like.device).to(like.dtype).train(self.training)
        self._pruned = {}
        self.capsules.clear()
        self.capsules.update({name: everyone[name] for name in self._order})

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Called by torch before the capsules are loaded."""
        self.match_capsules(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without losses that nobody collected, which are bound to a graph."""
        return self.__dict__ | {"_local_losses": None}

    def _local(
        self, x: Tensor, target: Tensor, on_loss: OnLoss | None = None
    ) -> tuple[list[Tensor], Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """Run everything on the detached input: maps in routing order, the projection, losses and logits by name."""
        self.check_input(x)
        x = x.detach()
        maps: list[Tensor] = []
        losses: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}

        def learned(name: str, feature_map: Tensor, scores: Tensor, own: LocalLoss | None = None) -> Tensor:
            loss = self.loss(scores, target) if own is None else own(feature_map, scores, target)
            if on_loss is not None:
                on_loss(name, loss)
                feature_map, scores, loss = feature_map.detach(), scores.detach(), loss.detach()
            losses[name], logits[name] = loss, scores
            return feature_map

        for name, capsule in zip(self.capsule_names, self.in_order, strict=True):
            feature_map, scores = capsule(x)
            maps.append(learned(name, feature_map, scores, capsule.loss))
        projected = None if self.projection is None else self.projection(x)
        if projected is not None and self.projection_classifier is not None:
            projected = learned(PROJECTION, projected, self.projection_classifier(projected)).detach()
        return maps, projected, losses, logits

    @staticmethod
    def _on_host(losses: Mapping[str, Tensor], average: Average | None = None) -> dict[str, float]:
        """All losses in one transfer, averaged over processes."""
        stacked = torch.stack([loss.detach() for loss in losses.values()])
        values = (stacked if average is None else average(stacked)).tolist()
        return dict(zip(losses, values, strict=True))


class _Averaging(NamedTuple):
    """A share that has nothing but an average."""

    mean: Average
    weight: float = 1.0

    def any(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags)


def _share_of(average: Average | None) -> Share:
    return WHOLE if average is None else _Averaging(average)


def _join(chosen: Tensor, projected: Tensor | None) -> Tensor:
    """Equation 5: the chosen map and the projection."""
    return chosen if projected is None else torch.cat([chosen, projected], dim=1)


def _surest(maps: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Take each sample's map from the capsule whose verdict on it has the least entropy."""
    choice = least_entropy(torch.stack(list(logits)))
    return torch.stack(list(maps))[choice, torch.arange(choice.shape[0], device=choice.device)]


@contextmanager
def local_targets(target: Tensor, average: Average | None = None) -> Iterator[None]:
    """Hand the batch's labels to every `PrimeBlock` that runs inside.

    Args:
        target: Class indices, ``(batch,)``.
        average: Averages losses, ``(losses,)``, over several processes, so that all choose the same capsule:
            ``BatchShare(len(target), target.device)`` of `primenet_lightning.training.exchange`.

    Yields:
        Nothing; afterwards `collect_local_losses` has the losses.

    Example:
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
    tokens = _TARGET.set(target), _AVERAGE.set(average)
    try:
        yield
    finally:
        _TARGET.reset(tokens[0])
        _AVERAGE.reset(tokens[1])


def collect_local_losses(model: nn.Module) -> dict[str, Tensor]:
    """Take the local losses that the blocks of a model left in their last forward pass under `local_targets`.

    They are handed out once: a second call without another forward pass finds none.

    Args:
        model: Any module with `PrimeBlock` layers inside.

    Returns:
        Scalars by name, the block's path in the model and the capsule's name joined by a dot.

    Example:
        >>> block = PrimeBlock.multiscale(1, (8, 8), num_classes=3, channels=4, projection_channels=4)
        >>> with local_targets(torch.tensor([0, 1])):
        ...     features = block(torch.randn(2, 1, 8, 8))
        >>> list(collect_local_losses(block)), list(collect_local_losses(block))
        (['k3', 'k5', 'k7', 'projection'], [])
    """
    collected = {}
    for path, module in model.named_modules():
        if isinstance(module, PrimeBlock) and module._local_losses is not None:
            collected.update({f"{path}.{name}".lstrip("."): loss for name, loss in module._local_losses.items()})
            module._local_losses = None
    return collected
