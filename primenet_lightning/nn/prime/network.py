"""PrimeNetwork: blocks and a head, in pure torch."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.nn.layers import trial_run
from primenet_lightning.nn.layout import channels_last
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.network import Evaluation, StagedNetwork
from primenet_lightning.nn.prime.architecture import Architecture
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.building import Plan, PoolEvery, pool_follows
from primenet_lightning.nn.prime.routes import (
    BY_LABELS,
    EACH_SUREST,
    InferenceRouting,
    RouteHistory,
    without,
)
from primenet_lightning.nn.prime.routing_checks import refuse_pools, refuse_route, refuse_routing
from primenet_lightning.nn.stages import Route, StageRow
from primenet_lightning.nn.whole import Whole


class PrimeNetwork(StagedNetwork):
    """Locally trained blocks in a row, 2x2 max pools between them, and a classifier head (figure 2).

    In training the blocks and the head are the stages of `primenet_lightning.training.runner`. At inference
    ``network(x)`` routes without labels and computes only what is routed.

    Args:
        blocks: First to last. All but the last need a projection that learns locally, or none.
        head: From the last block's output to logits.
        inference_routing: Which joint route (one capsule per block) a label-free forward takes:

            - ``"majority"``: the one that training took most often over its last ``routing_window`` batches;
            - ``"best_validation"``: the one of least validation error, see `select_route`;
            - ``"min_entropy"``: in each block, each sample takes its surest capsule; all capsules are computed;
            - an index, or one index per block: always this one;
            - ``"oracle"``: equation 4 with the labels of the very batch under test, for analysis. It leaks the label,
              works through `evaluate` only, and ``network(x)`` refuses it.

        routing_window: Batches that the majority is taken over.
        pool_every: A 2x2 max pool ends every so many blocks, or those of these indices; never the last.

    Raises:
        ValueError: If blocks do not fit each other or the head, or if ``inference_routing`` is impossible.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> network = PrimeNetwork.build(1, (28, 28), 10, architecture("compact", (28, 28)))
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
        >>> [stage.name for stage in network.stages], network.loss_names
        (['block0', 'head'], ['block0.k3', 'block0.k5', 'block0.k7', 'head'])
    """

    blocks: nn.ModuleList

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
        self.head = head
        self.history = RouteHistory(routing_window, len(blocks))
        self.selected_route: Route | None = None
        refuse_pools(pool_every, len(blocks))
        for index, block in enumerate(blocks):
            block.name = f"block{index}"
            block.pooled = index + 1 < len(blocks) and pool_follows(pool_every, index)
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
            kernel_sizes: One capsule per scale, odd.
            depth: Number of blocks.
            routing_window: Batches that the majority is taken over.
            inference_routing: See the class.
            pool_every: See the class.

        Returns:
            A network with Glorot's initialisation.

        Raises:
            ValueError: If the images are too small for so many blocks.
        """
        plan = Plan(architecture, (in_channels, *image_size), num_classes, kernel_sizes, depth, pool_every)
        blocks = plan.blocks()
        return cls(blocks, plan.head(blocks[-1].out_shape), inference_routing, routing_window, pool_every)

    # -- stages and names ----------------------------------------------------------------------------------------------

    @property
    def stages(self) -> StageRow:
        """The blocks, then the head. Its stage is made when it is asked for, so that checkpoints know one head."""
        return StageRow([*self.prime_blocks, Whole(self.head)])

    @property
    def prime_blocks(self) -> list[PrimeBlock]:
        """The blocks, typed."""
        blocks: list[PrimeBlock] = []
        for block in self.blocks:
            assert isinstance(block, PrimeBlock)
            blocks.append(block)
        return blocks

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.prime_blocks[0].in_shape

    @property
    def loss_names(self) -> list[str]:
        """Full names of all losses in the order of computation: ``block0.k3``, ..., ``head``."""
        return [block.full_name(name) for block in self.prime_blocks for name in block.loss_names] + [HEAD]

    @property
    def classifier_names(self) -> list[str]:
        """Full names of those who classify, in the order of computation: all but routers that learn."""
        return [block.full_name(name) for block in self.prime_blocks for name in block.classifier_names] + [HEAD]

    @property
    def capsule_names(self) -> list[list[str]]:
        """Full names of the capsules, one list a block, in routing order."""
        return [[block.full_name(name) for name in block.capsule_names] for block in self.prime_blocks]

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Who learns what: parameters by the name of the one loss that trains them.

        A projection without a classifier of its own belongs to the head.

        Returns:
            Disjoint lists that together hold every parameter.
        """
        learners: dict[str, list[nn.Parameter]] = {}
        for block in self.prime_blocks:
            learners |= block.learners()
        learners[HEAD] = [*self.prime_blocks[-1].left_to_next(), *self.head.parameters()]
        return learners

    def learned(self, route: Route) -> None:
        """Remember the joint route of a training batch."""
        self.history.append(route)

    # -- inference -----------------------------------------------------------------------------------------------------

    @property
    def inference_routing(self) -> InferenceRouting:
        """How a label-free forward routes; setting an impossible one raises a ValueError."""
        return self._inference_routing

    @inference_routing.setter
    def inference_routing(self, mode: InferenceRouting) -> None:
        refuse_routing(mode, self.prime_blocks)
        self._inference_routing: InferenceRouting = mode

    @property
    def routing_mode(self) -> str:
        """What a label-free forward goes by: ``inference_routing``, or the routers that leave it no choice."""
        mode = self.inference_routing
        names = list(dict.fromkeys(block.router.name or type(block.router).__name__ for block in self.prime_blocks))
        if mode != "majority" or names in (["least_loss"], ["random"]):
            return str(mode)
        return ", ".join(names) + ("" if self.local else ", end to end")

    def forward(self, x: Tensor, route: Route | None = None) -> Tensor:
        """Classify images without labels; of each block only the routed capsule is computed.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            route: One capsule index per block; None takes the route of ``inference_routing``.

        Returns:
            Logits, ``(batch, classes)``. The graph is whole.

        Raises:
            ValueError: If ``inference_routing`` is ``"oracle"`` and no route is given.
        """
        logits: Tensor = self.head(self.features(x, route))
        return logits

    def features(self, x: Tensor, route: Route | None = None) -> Tensor:
        """Compute what the head sees, without labels.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            route: One capsule index per block; None takes the route of ``inference_routing``.

        Returns:
            The last block's routed map and projection, ``(batch, channels, height, width)``. The graph is whole.
        """
        if route is not None:
            refuse_route(route, self.prime_blocks)
        elif self.inference_routing == "min_entropy":
            route = (EACH_SUREST,) * len(self.blocks)
        else:
            route = self.inference_route()
        for block, choice in zip(self.prime_blocks, route, strict=True):
            x = block.through(x, choice)
        return x

    def choices(self) -> Route:
        """Plan what goes on of each stage: the inference route, or ``"min_entropy"`` or ``"oracle"`` in its place."""
        if self.inference_routing == "min_entropy":
            return (*(EACH_SUREST for _ in self.blocks), 0)
        if self.inference_routing == "oracle":
            return (*(BY_LABELS for _ in self.blocks), 0)
        return (*self.inference_route(), 0)

    def inference_route(self) -> Route:
        """The joint route that a label-free forward takes.

        Returns:
            One index per block.

        Raises:
            ValueError: If ``inference_routing`` is ``"oracle"`` or ``"min_entropy"``, which have no such route, or
                ``"best_validation"`` and no route has been selected.
        """
        mode = self.inference_routing
        if mode == "majority":
            route = list(self.history.majority())
            for place, block in enumerate(self.prime_blocks):
                if block.router.settled is not None:
                    route[place] = block.router.settled
            return tuple(route)
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

    def evaluate(self, x: Tensor, target: Tensor, route: Route | None = None) -> Evaluation:
        """Give everyone's verdict: all capsules', for monitoring, and the head's under ``inference_routing``.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``: for the losses, and for routing only if that is ``"oracle"``.
            route: One capsule index per block; None routes by ``inference_routing``.

        Returns:
            Losses and logits by full name.
        """
        return super().evaluate(x, target, None if route is None else (*route, 0))

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
        blocks = self.prime_blocks

        def descend(x: Tensor, depth: int) -> list[Tensor]:
            if depth == len(blocks):
                logits = self.head(x)
                wrong = (logits.argmax(1) != target).sum()
                return [torch.stack([wrong.float(), cross_entropy(logits, target).float() * len(target)])]
            block = blocks[depth]
            verdicts: list[Tensor] = []
            for index in block.choices:
                verdicts += descend(block.through(x, index), depth + 1)
            return verdicts

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
        dropped: list[str] = []
        for index, block in enumerate(self.prime_blocks):
            committed = block.router.committed
            names = block.prune()
            if names:
                dropped += names
                self.history.reduce_to_one(index)
                self.selected_route = without(self.selected_route, index, committed)
        return dropped

    def follow_pruning(self, remaining: Collection[str]) -> None:
        """Prune the blocks of which one capsule remains elsewhere; see `StagedNetwork.follow_pruning`."""
        for block, names in zip(self.prime_blocks, self.capsule_names, strict=True):
            left = [index for index, name in enumerate(names) if name in remaining]
            if block.router.prunes and len(left) == 1 < len(names):
                block.router.commit(left[0])
        self.prune()

    def match(self, state_dict: Mapping[str, Any], prefix: str = "") -> None:
        """Prune, or take back, what a checkpoint prunes, or has; ``load_state_dict`` does so by itself."""
        for index, block in enumerate(self.prime_blocks):
            block.match(state_dict, f"{prefix}blocks.{index}.")

    # -- state and checks ----------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The route of ``"best_validation"``, int64, ``(blocks,)``; empty if none was selected."""
        return torch.tensor(self.selected_route or (), dtype=torch.int64)

    def set_extra_state(self, state: Any) -> None:
        """Take the selected route from a checkpoint."""
        self.selected_route = tuple(state.tolist()) or None

    def _check_fit(self) -> None:
        """Refuse blocks that do not fit each other, or the head."""
        blocks = self.prime_blocks
        for block, following in itertools.pairwise(blocks):
            if not block.closed:
                raise ValueError(
                    f"{block.name}'s projection has no classifier of its own and no head above it, so nothing would "
                    f"train it; give {block.name} a projection_classifier"
                )
            if following.in_shape != block.out_shape:
                givers = f"{block.name} and the 2x2 max pool give" if block.pooled else f"{block.name} gives"
                raise ValueError(
                    f"{following.name} was built for inputs of {following.in_shape}, but {givers} {block.out_shape}"
                )
        shape = blocks[-1].out_shape
        like = next(self.parameters(), torch.empty(0))
        try:
            with trial_run(self.head):
                self.head(channels_last(torch.zeros(2, *shape, device=like.device, dtype=like.dtype)))
        except RuntimeError as error:
            raise ValueError(f"the head cannot take the last block's output of shape {shape}: {error}") from error
