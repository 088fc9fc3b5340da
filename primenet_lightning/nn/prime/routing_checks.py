"""Which ways of routing, and which pools, a row of blocks cannot have."""

import math
from collections.abc import Sequence

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.building import PoolEvery
from primenet_lightning.nn.prime.routes import ROUTING_MODES, InferenceRouting

MAX_JOINT_ROUTES = 81
"""`best_validation` tries every joint route: three capsules in four blocks, no more."""


def refuse_pools(pool_every: PoolEvery, depth: int) -> None:
    """Check that pools are asked for where there are blocks.

    Args:
        pool_every: Every so many blocks, or the indices of blocks.
        depth: Number of blocks.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(pool_every, int):
        at_least(1, "block", pool_every=pool_every)
        return
    for place in pool_every:
        if not 0 <= place < depth:
            raise ValueError(
                f"pool_every={tuple(pool_every)} names block{place}, and there are {depth}; count from 0, or give () "
                "for no pool"
            )


def refuse_routing(mode: InferenceRouting, blocks: Sequence[PrimeBlock]) -> None:
    """Check that blocks can be routed like this at inference.

    Args:
        mode: See `PrimeNetwork`.
        blocks: First to last.

    Raises:
        ValueError: If the mode is unknown, names no capsules, or contradicts a router.
    """
    if not isinstance(mode, str):
        refuse_route(mode, blocks)
    elif mode not in ROUTING_MODES:
        raise ValueError(f"inference_routing={mode!r} is unknown; use one of {ROUTING_MODES} or an index")
    elif mode == "best_validation":
        _refuse_many_routes(blocks)
    for router in [block.router for block in blocks]:
        if mode != "majority" and not router.chooses:
            raise ValueError(
                f"inference_routing={mode!r} chooses one capsule per block, but router={router.name!r} makes its own "
                "of all; use 'majority', the default"
            )
        if router.prunes and mode not in ROUTING_MODES:
            raise ValueError(
                f"inference_routing={mode!r} fixes capsules that router={router.name!r} may prune; use 'majority', the "
                "default, or router='settle'"
            )


def refuse_route(route: int | Sequence[int], blocks: Sequence[PrimeBlock]) -> None:
    """Check that a route leads through the blocks.

    Args:
        route: One capsule index per block, or one for all.
        blocks: First to last.

    Raises:
        ValueError: If there are no such capsules.
    """
    capsules = [len(block.capsules) for block in blocks]
    indices = (route,) * len(capsules) if isinstance(route, int) else tuple(route)
    fits = len(indices) == len(capsules) and all(0 <= i < n for i, n in zip(indices, capsules, strict=True))
    if not fits:
        raise ValueError(
            f"inference_routing={route!r} is no route through blocks of {capsules} capsules; give an index, or one "
            "index per block, from 0"
        )


def _refuse_many_routes(blocks: Sequence[PrimeBlock]) -> None:
    routes = math.prod(len(block.choices) for block in blocks)
    if routes > MAX_JOINT_ROUTES:
        raise ValueError(
            f"inference_routing='best_validation' would try {routes} joint routes on the validation split, more than "
            f"{MAX_JOINT_ROUTES}; use 'majority'"
        )
