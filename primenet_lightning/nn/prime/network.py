"""PrimeNetwork: blocks and a head, in pure torch."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from primenet_lightning.nn.classifiers import ClassifierHead, FollowingLayer, LocalClassifier, local_classifier
from primenet_lightning.nn.layers import blank_input, trial_run
from primenet_lightning.nn.layout import channels_last
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.numbers import NonFiniteError, refuse_non_finite
from primenet_lightning.nn.prime.architecture import Architecture
from primenet_lightning.nn.prime.block import OnLoss, PrimeBlock
from primenet_lightning.nn.prime.capsules import Capsule, conv_capsules
from primenet_lightning.nn.prime.projection import Projection
from primenet_lightning.nn.prime.router import GATE, Router
from primenet_lightning.nn.prime.routers import build_router
from primenet_lightning.nn.prime.routes import (
    ROUTING_MODES,
    InferenceRouting,
    Route,
    RouteHistory,
)
from primenet_lightning.training.exchange import Average

Value = TypeVar("Value")

HEAD = "head"
"""Name of the head's loss."""

MAX_JOINT_ROUTES = 81
"""`best_validation` tries every joint route: three capsules in four blocks, no more."""


PoolEvery = int | Sequence[int]
"""A 2x2 max pool follows every so many blocks, or the blocks of these indices."""


class Stage(NamedTuple):
    """One block, or the head, after its forward pass in training.

    Attributes:
        name: ``"block0"``, ..., ``"head"``.
        losses: Scalars by full name (``"block0.k3"``, ``"head"``); their graphs are disjoint from each other and from
            those of every other stage.
        logits: Logits, ``(batch, classes)``, by the same names.
        values: The losses as numbers on the host, by the same names.
        route: Index of the routed capsule; None for the head.
    """

    name: str
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    values: dict[str, float]
    route: int | None


class Evaluation(NamedTuple):
    """A batch seen by every capsule and by the head, without gradients.

    Attributes:
        losses: Scalars by full name.
        logits: Logits, ``(batch, classes)``, by full name; those of ``"head"`` are the network's answer.
        route: One index a block; -1 where each sample took its own.
    """

    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    route: Route


class PrimeNetwork(nn.Module):
    """Locally trained blocks in a row, 2x2 max pools between them, and a classifier head (figure 2).

    In training, `stages` gives one block's losses after the other, so that each can be learned from, and its
    activations freed, before the next runs. At inference ``network(x)`` routes without labels and computes only what
    is routed.

    Args:
        blocks: First to last. All but the last need a projection that learns locally, or none.
        head: From the last block's output to logits.
        inference_routing: Which joint route (one capsule a block) a label-free forward takes:

            - ``"majority"``: the one that training took most often over its last ``routing_window`` batches;
            - ``"best_validation"``: the one of least validation error, see `select_route`;
            - ``"min_entropy"``: in each block, each sample takes its surest capsule; all capsules are computed;
            - an index, or one index a block: always this one;
            - ``"oracle"``: equation 4 with the labels of the very batch under test, for analysis. It leaks the label,
              works through `evaluate` only, and ``network(x)`` refuses it.

        routing_window: Batches that the majority is taken over.
        pool_every: A 2x2 max pool follows every so many blocks, or those of these indices; never the last.

    Attributes:
        local: Whether every capsule learns by itself; False for the end-to-end twin.

    Raises:
        ValueError: If blocks do not fit each other or the head, or if ``inference_routing`` is impossible.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> network = PrimeNetwork.build(1, (28, 28), 10, architecture("compact", (28, 28)))
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
        >>> for stage in network.stages(torch.randn(4, 1, 28, 28), torch.tensor([3, 1, 4, 1])):
        ...     print(stage.name, list(stage.losses))
        ...     sum(stage.losses.values()).backward()
        block0 ['block0.k3', 'block0.k5', 'block0.k7']
        head ['head']
    """

    blocks: nn.ModuleList
    local: ClassVar[bool] = True

    def __init__(
        self,
        blocks: Sequence[PrimeBlock],
        head: nn.Module,
        inference_routing: InferenceRouting = "majority",
        routing_window: int = 256,
        pool_every: PoolEvery = 1,
    ) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("blocks=[] is empty; a network needs at least one block")
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2)
        self.pool_every = pool_every
        self.head = head
        self.history = RouteHistory(routing_window, len(blocks))
        self.selected_route: Route | None = None
        self._check_fit()
        self.inference_routing = inference_routing

    @classmethod
    def build(
        cls,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        architecture: Architecture,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        depth: int = 1,
        routing_window: int = 256,
        inference_routing: InferenceRouting = "majority",
        pool_every: PoolEvery = 1,
    ) -> "PrimeNetwork":
        """Build the paper's network without Lightning.

        Args:
            in_channels: Channels of the images.
            image_size: Height and width of the images, in pixels.
            num_classes: Number of classes.
            architecture: Widths, see `primenet_lightning.nn.prime.architecture.architecture`.
            kernel_sizes: One capsule a scale, odd.
            depth: Number of blocks.
            routing_window: Batches that the majority is taken over.
            inference_routing: See the class.
            pool_every: See the class.

        Returns:
            A network with Glorot's initialisation.

        Raises:
            ValueError: If the images are too small for so many blocks.
        """
        a = architecture

        def capsules(index: int, shape: tuple[int, int, int]) -> Mapping[str, Capsule]:
            return capsules_of(a, index, shape, num_classes, kernel_sizes, depth, pool_every)

        def projection(index: int, shape: tuple[int, int, int], map_size: tuple[int, int]) -> nn.Module | None:
            width = a.of_block("projection_channels", index)
            return Projection.to_size(shape, width, map_size) if width else None

        def router(index: int) -> Router:
            return build_router(a.router, index, a.router_options)

        blocks = stack_blocks(
            (in_channels, *image_size),
            num_classes,
            depth,
            capsules,
            projection,
            a.local_classifier,
            pool_every,
            router,
            a.local_classifier_options,
        )
        channels, *map_size = blocks[-1].out_shape
        head = ClassifierHead(channels, (map_size[0], map_size[1]), num_classes, a.head_channels)
        return cls(blocks, head, inference_routing, routing_window, pool_every)

    @property
    def inference_routing(self) -> InferenceRouting:
        """How a label-free forward routes; setting an impossible one raises a ValueError."""
        return self._inference_routing

    @inference_routing.setter
    def inference_routing(self, mode: InferenceRouting) -> None:
        self._inference_routing: InferenceRouting = self._check_routing(mode)
        self._check_routers(mode)

    @property
    def routing_mode(self) -> str:
        """What a label-free forward goes by: ``inference_routing``, or the routers that leave it no choice."""
        mode = self.inference_routing
        names = list(dict.fromkeys(block.router.name or type(block.router).__name__ for block in self.prime_blocks))
        if mode != "majority" or names in (["least_loss"], ["random"]):
            return str(mode)
        return ", ".join(names) + ("" if self.local else ", end to end")

    # -- names ---------------------------------------------------------------------------------------------------------

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self._block(0).in_shape

    @property
    def loss_names(self) -> list[str]:
        """Full names of all losses in the order of computation: ``block0.k3``, ..., ``head``."""
        return [f"block{i}.{name}" for i, block in self._blocks() for name in block.loss_names] + [HEAD]

    @property
    def classifier_names(self) -> list[str]:
        """Full names of those who classify, in the order of computation: all but routers that learn."""
        return [f"block{i}.{name}" for i, block in self._blocks() for name in block.classifier_names] + [HEAD]

    @property
    def capsule_names(self) -> list[list[str]]:
        """Full names of the capsules, one list a block, in routing order."""
        return [[f"block{i}.{name}" for name in block.capsule_names] for i, block in self._blocks()]

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Who learns what: parameters by the name of the one loss that trains them.

        A projection without a classifier of its own belongs to the head.

        Returns:
            Disjoint lists that together hold every parameter.
        """
        groups: dict[str, list[nn.Parameter]] = {}
        own: list[nn.Parameter] = []
        for i, block in self._blocks():
            for name, capsule in block.capsules.items():
                groups[f"block{i}.{name}"] = list(capsule.parameters())
            own = [*_parameters(block.projection), *_parameters(block.projection_classifier)]
            if block.projection_classifier is not None:
                groups[f"block{i}.projection"] = own
                own = []
            if gate := _parameters(block.router):
                groups[f"block{i}.{GATE}"] = gate
        return groups | {HEAD: own + list(self.head.parameters())}

    @property
    def prime_blocks(self) -> list[PrimeBlock]:
        """The blocks, typed."""
        return [self._block(index) for index in range(len(self.blocks))]

    def _block(self, index: int) -> PrimeBlock:
        block = self.blocks[index]
        assert isinstance(block, PrimeBlock)
        return block

    def _blocks(self) -> Iterator[tuple[int, PrimeBlock]]:
        return enumerate(self.prime_blocks)

    # -- training ------------------------------------------------------------------------------------------------------

    def _enter(self, x: Tensor, index: int) -> Tensor:
        """What a block sees of the output of the one before."""
        return self.pool(x) if index and pool_follows(self.pool_every, index - 1) else x

    def stages(
        self, x: Tensor, target: Tensor, average: Average | None = None, on_loss: OnLoss | None = None
    ) -> Iterator[Stage]:
        """Run block by block, then the head, each stage on the detached output of the one before.

        The joint route is remembered once the head's loss is known to be a number.

        The generator keeps nothing of a stage but its detached output: whoever drops the stage after its backward
        frees its activations, so that those of one block are alive at a time, whatever the depth.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.
            average: Averages losses, ``(losses,)``, over several processes, see `PrimeBlock.learn`; the head's too, so
                that all processes see the same numbers and none is left alone with a NaN.
            on_loss: Takes each loss, a scalar, by full name, as soon as it is known; those of the stages then have no
                graph.

        Yields:
            The stages, in order.

        Raises:
            NonFiniteError: If a loss is NaN or infinite; the sentence names block and capsule.
        """
        route = []
        for i, block in self._blocks():
            x = self._enter(x, i)
            try:
                output = block.learn(x, target, average, on_loss and _prefixing(i, on_loss))
            except NonFiniteError as error:
                raise NonFiniteError(f"block{i}.{error.name}", error.value) from None
            route.append(output.route)
            x = output.features
            stage = Stage(
                f"block{i}",
                _prefixed(i, output.losses),
                _prefixed(i, output.logits),
                _prefixed(i, output.values),
                output.route,
            )
            del output
            yield stage
            del stage
        stage = self._head_stage(x, target, average, on_loss)
        self.history.append(tuple(route))
        yield stage

    def _head_stage(self, x: Tensor, target: Tensor, average: Average | None, on_loss: OnLoss | None) -> Stage:
        logits = self.head(x)
        loss = cross_entropy(logits, target)
        values = {HEAD: (loss.detach() if average is None else average(loss.detach()[None])).item()}
        refuse_non_finite(values)
        if on_loss is not None:
            on_loss(HEAD, loss)
            logits, loss = logits.detach(), loss.detach()
        return Stage(HEAD, {HEAD: loss}, {HEAD: logits}, values, None)

    # -- inference -----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, route: Route | None = None) -> Tensor:
        """Classify images without labels; of each block only the routed capsule is computed.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            route: One capsule index a block; None takes the route of ``inference_routing``.

        Returns:
            Logits, ``(batch, classes)``.

        Raises:
            ValueError: If ``inference_routing`` is ``"oracle"`` and no route is given.
        """
        logits: Tensor = self.head(self.features(x, route))
        return logits

    def features(self, x: Tensor, route: Route | None = None) -> Tensor:
        """Compute what the head sees, without labels.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            route: One capsule index a block; None takes the route of ``inference_routing``.

        Returns:
            The last block's routed map and projection, ``(batch, channels, height, width)``.
        """
        if route is not None:
            self._check_routing(route)
        elif self.inference_routing != "min_entropy":
            route = self.inference_route()
        for i, block in self._blocks():
            x = block.infer(self._enter(x, i), "min_entropy" if route is None else route[i])
        return x

    def inference_route(self) -> Route:
        """The joint route that a label-free forward takes.

        Returns:
            One index a block.

        Raises:
            ValueError: If ``inference_routing`` is ``"oracle"`` or ``"min_entropy"``, which have no such route, or
                ``"best_validation"`` and no route has been selected.
        """
        mode = self.inference_routing
        if mode == "majority":
            taken = zip(self.history.majority(), self.prime_blocks, strict=True)
            return tuple(i if block.router.settled is None else block.router.settled for i, block in taken)
        if mode == "best_validation":
            if self.selected_route is None:
                raise ValueError(
                    "inference_routing='best_validation' has selected no route yet; fit or validate with it first, or "
                    "use 'majority'"
                )
            return self.selected_route
        if isinstance(mode, int):
            return (mode,) * len(self.blocks)
        if isinstance(mode, str):
            raise ValueError(
                f"inference_routing={mode!r} has no route that holds for all images; "
                + ("call network.evaluate with the labels" if mode == "oracle" else "each sample takes its own")
            )
        return tuple(mode)

    @torch.no_grad()
    def evaluate(self, x: Tensor, target: Tensor, route: Route | None = None) -> Evaluation:
        """Give everyone's verdict: all capsules', for monitoring, and the head's under ``inference_routing``.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``: for the losses, and for routing only if that is ``"oracle"``.
            route: One capsule index a block; None routes by ``inference_routing``.

        Returns:
            Losses and logits by full name.
        """
        losses: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        taken = []
        mode = self.inference_routing
        if route is None and mode not in ("min_entropy", "oracle"):
            route = self.inference_route()
        for i, block in self._blocks():
            routing = mode if route is None else route[i]
            output = block.evaluate(self._enter(x, i), target, routing)  # type: ignore[arg-type]
            losses |= _prefixed(i, output.losses)
            logits |= _prefixed(i, output.logits)
            taken.append(output.route)
            x = output.features
        logits[HEAD] = self.head(x)
        losses[HEAD] = cross_entropy(logits[HEAD], target)
        return Evaluation(losses, logits, tuple(taken))

    def joint_routes(self) -> list[Route]:
        """All joint routes, in lexicographic order; a block whose router needs all maps has one."""
        return list(itertools.product(*(block.choices for block in self.prime_blocks)))

    @torch.no_grad()
    def judge_routes(self, x: Tensor, target: Tensor) -> Tensor:
        """Try each joint route on a batch. Each capsule runs once per distinct input.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.

        Returns:
            ``(joint routes, 2)``, float32, in the order of `joint_routes`: wrong answers, and the sum of the head's
            losses in nats.
        """

        def descend(x: Tensor, depth: int) -> list[Tensor]:
            if depth == len(self.blocks):
                logits = self.head(x)
                wrong = (logits.argmax(1) != target).sum()
                return [torch.stack([wrong.float(), cross_entropy(logits, target).float() * len(target)])]
            x = self._enter(x, depth)
            block = self._block(depth)
            return [verdict for index in block.choices for verdict in descend(block.infer(x, index), depth + 1)]

        return torch.stack(descend(x, 0))

    def select_route(self, errors: Tensor) -> int:
        """Fix the route of ``"best_validation"``; it is kept in the checkpoint. Ties go to the first.

        Args:
            errors: Wrong answers of each joint route on the validation split, ``(joint routes,)``, in the order of
                `joint_routes`.

        Returns:
            The place of the route of fewest in that order.
        """
        place = int(errors.argmin())
        self.selected_route = self.joint_routes()[place]
        return place

    # -- pruning -------------------------------------------------------------------------------------------------------

    @property
    def decided(self) -> bool:
        """Whether a router has decided against capsules that are still here."""
        return any(block.decided for block in self.prime_blocks)

    def prune(self) -> list[str]:
        """Drop, for good, the capsules that routers have decided against, see `PrimeBlock.prune`.

        Returns:
            Full names of the capsules dropped.
        """
        dropped = []
        for i, block in self._blocks():
            kept = block.router.committed
            if names := block.prune():
                dropped += [f"block{i}.{name}" for name in names]
                self.history.reduce_to_one(i)
                self.selected_route = _without(self.selected_route, i, kept)
        return dropped

    def match_capsules(self, state_dict: Mapping[str, Any], prefix: str = "") -> None:
        """Prune, or take back, what a checkpoint prunes, or has; ``load_state_dict`` does so by itself.

        Args:
            state_dict: Of this network, or of a model that has it inside.
            prefix: What the names of the network's entries begin with.
        """
        for i, block in self._blocks():
            block.match_capsules(state_dict, f"{prefix}blocks.{i}.")

    # -- state and checks ----------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The route of ``"best_validation"``, int64, ``(blocks,)``; empty if none was selected."""
        return torch.tensor(self.selected_route or (), dtype=torch.int64)

    def set_extra_state(self, state: Any) -> None:
        """Take the selected route from a checkpoint."""
        self.selected_route = tuple(state.tolist()) or None

    def _check_fit(self) -> None:
        if not isinstance(self.pool_every, int):
            for place in self.pool_every:
                if not 0 <= place < len(self.blocks):
                    raise ValueError(
                        f"pool_every={tuple(self.pool_every)} names block{place}, and there are {len(self.blocks)}; "
                        "count from 0, or give () for no pool"
                    )
        elif self.pool_every < 1:
            raise ValueError(f"pool_every={self.pool_every} must be at least 1 block")
        for i, block in self._blocks():
            if i + 1 < len(self.blocks):
                if block.projection is not None and block.projection_classifier is None:
                    raise ValueError(
                        f"block{i}'s projection has no classifier of its own and no head above it, so nothing would "
                        f"train it; give block{i} a projection_classifier"
                    )
                expected = next_shape(block.out_shape, i, self.pool_every)
                if self._block(i + 1).in_shape != expected:
                    pool = "" if expected == block.out_shape else " and the 2x2 max pool"
                    raise ValueError(
                        f"block{i + 1} was built for inputs of {self._block(i + 1).in_shape}, but block{i}{pool} "
                        f"give{'' if pool else 's'} {expected}"
                    )
        shape = self._block(-1).out_shape
        try:
            with trial_run(self.head):
                self.head(channels_last(blank_input(self, shape)))
        except RuntimeError as error:
            raise ValueError(f"the head cannot take the last block's output of shape {shape}: {error}") from error

    def _check_routing(self, mode: InferenceRouting) -> InferenceRouting:
        capsules = [len(block.capsules) for block in self.prime_blocks]
        if isinstance(mode, str):
            if mode not in ROUTING_MODES:
                raise ValueError(f"inference_routing={mode!r} is unknown; use one of {ROUTING_MODES} or an index")
            if mode == "best_validation" and len(self.joint_routes()) > MAX_JOINT_ROUTES:
                raise ValueError(
                    f"inference_routing='best_validation' would try {len(self.joint_routes())} joint routes on the "
                    f"validation split, more than {MAX_JOINT_ROUTES}; use 'majority'"
                )
            return mode
        route = (mode,) * len(capsules) if isinstance(mode, int) else tuple(mode)
        if len(route) != len(capsules) or any(not 0 <= i < n for i, n in zip(route, capsules, strict=True)):
            raise ValueError(
                f"inference_routing={mode!r} is no route through blocks of {capsules} capsules; give an index, or one "
                "index a block, from 0"
            )
        return mode

    def _check_routers(self, mode: InferenceRouting) -> None:
        """Refuse to choose where a router makes its own of all maps, or may take the chosen away."""
        for router in (block.router for block in self.prime_blocks):
            if mode != "majority" and not router.chooses:
                raise ValueError(
                    f"inference_routing={mode!r} chooses one capsule a block, but router={router.name!r} makes its own "
                    "of all; use 'majority', the default"
                )
            if router.prunes and mode not in ROUTING_MODES:
                raise ValueError(
                    f"inference_routing={mode!r} fixes capsules that router='commit' may prune; use 'majority', the "
                    "default, or router='settle'"
                )


def stack_blocks(
    in_shape: tuple[int, int, int],
    num_classes: int,
    depth: int,
    capsules: Callable[[int, tuple[int, int, int]], Mapping[str, Capsule]],
    projection: Callable[[int, tuple[int, int, int], tuple[int, int]], nn.Module | None],
    projection_classifier: LocalClassifier = "flatten",
    pool_every: PoolEvery = 1,
    router: Callable[[int], Router] | None = None,
    classifier_options: Mapping[str, Any] | None = None,
) -> list[PrimeBlock]:
    """Build blocks in a row, each for the output of the one before, pooled where it is.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        depth: Number of blocks.
        capsules: From a block's index and input shape to its capsules by name.
        projection: From a block's index, input shape, and its maps' height and width, to its projection, or None.
        projection_classifier: With what the projections below the last block learn, see `local_classifier`; where
            that is for capsules (``"conv"``, ``"layers"``) they take ``"pooled"``.
        pool_every: A 2x2 max pool follows every so many blocks, or those of these indices.
        router: From a block's index to its router; None is the paper's.
        classifier_options: Further arguments of the projections' classifiers.

    Returns:
        The blocks; the last one's projection is left to the head's loss.

    Raises:
        ValueError: If ``depth`` is not positive or the images are too small for it.
    """
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1 block")
    blocks: list[PrimeBlock] = []
    shape = in_shape
    for index in range(depth):
        if min(shape[1:]) < 1:
            raise ValueError(
                f"image_size={in_shape[1:]} is too small for depth={depth}: poolings leave nothing for block{index}; "
                f"use larger images, fewer blocks, or a pool_every above {pool_every}"
            )
        made = capsules(index, shape)
        bare = PrimeBlock(shape, made, None)  # tells the maps' size, and whether they agree
        map_size = bare.out_shape[1:]
        projected, own = projection(index, shape, map_size), None
        if index + 1 < depth and projected is not None:
            with trial_run(projected):
                channels = projected(torch.zeros(2, *shape)).shape[1]
            simple = projection_classifier in ("flatten", "pooled", "mlp")
            kind, given = (projection_classifier, classifier_options) if simple else ("pooled", None)
            own = local_classifier(kind, channels, map_size, num_classes, options=given)
        block = PrimeBlock(shape, made, projected, own, router=None if router is None else router(index))
        blocks.append(block)
        shape = next_shape(block.out_shape, index, pool_every)
    return blocks


def pool_follows(pool_every: PoolEvery, index: int) -> bool:
    """Tell whether a 2x2 max pool follows a block, if it is not the last.

    Args:
        pool_every: Every so many blocks, or the indices of the blocks.
        index: The block's index.

    Returns:
        Whether it does.

    Example:
        >>> [index for index in range(6) if pool_follows(2, index)], pool_follows((0, 3), 3)
        ([1, 3, 5], True)
    """
    return (index + 1) % max(pool_every, 1) == 0 if isinstance(pool_every, int) else index in pool_every


def capsules_of(
    architecture: Architecture,
    index: int,
    in_shape: tuple[int, int, int],
    num_classes: int,
    kernel_sizes: Sequence[int],
    depth: int,
    pool_every: PoolEvery,
) -> dict[str, Capsule]:
    """Build the capsules of one block of an architecture.

    Args:
        architecture: Widths, local classifier and local loss.
        index: The block's index.
        in_shape: Channels, height and width of its input.
        num_classes: Number of classes.
        kernel_sizes: One capsule a scale, odd.
        depth: Number of blocks.
        pool_every: See `PrimeNetwork`.

    Returns:
        Capsules by name.
    """
    a = architecture
    a.check_depth(depth)
    following = [
        FollowingLayer(a.of_block("channels", later), pool_follows(pool_every, later - 1))
        for later in range(index + 1, depth)
    ]
    following.append(FollowingLayer(a.head_channels, pooled=True))  # the convolution in the head
    return conv_capsules(
        in_shape[0],
        in_shape[1:],
        num_classes,
        kernel_sizes,
        a.of_block("reduce_channels", index),
        a.of_block("channels", index),
        a.stride if index == 0 else 1,
        a.local_classifier,
        a.local_loss,
        a.local_loss_options,
        following,
        a.local_classifier_options,
    )


def next_shape(out_shape: tuple[int, int, int], index: int, pool_every: PoolEvery) -> tuple[int, int, int]:
    """Tell the shape of the next block's input.

    Args:
        out_shape: Channels, height and width of this block's output.
        index: This block's index.
        pool_every: A 2x2 max pool follows every so many blocks, or those of these indices.

    Returns:
        Channels, height and width.
    """
    channels, height, width = out_shape
    return (channels, height // 2, width // 2) if pool_follows(pool_every, index) else out_shape


def _without(route: Route | None, block: int, kept: int | None) -> Route | None:
    """A route through a block that has kept one capsule, or None if it went another way."""
    return None if route is None or route[block] != kept else (*route[:block], 0, *route[block + 1 :])


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())


def _prefixing(index: int, on_loss: OnLoss) -> OnLoss:
    return lambda name, loss: on_loss(f"block{index}.{name}", loss)


def _prefixed(index: int, values: Mapping[str, Value]) -> dict[str, Value]:
    return {f"block{index}.{name}": value for name, value in values.items()}
