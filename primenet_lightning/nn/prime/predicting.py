"""What of a PrimeNetwork is left when it only predicts: of a routed block the routed capsule's features."""

import copy

from torch import nn

from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.capsule_dict import CapsuleDict
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.router import LeastLoss, Router
from primenet_lightning.nn.prime.routes import BY_LABELS, EACH_SUREST, RouteHistory
from primenet_lightning.nn.stages import Route


def only_routed(network: PrimeNetwork, choices: Route, keep_classifiers: bool = False) -> PrimeNetwork:
    """Copy a network without what serves training only.

    Left out are capsules that are not routed, the local classifiers, and the projections' own.

    Args:
        network: Which is left as it was.
        choices: Of the network, one index a stage; see `PrimeNetwork.choices`.
        keep_classifiers: Whether the routed capsules keep their classifiers, so that images may leave by them.

    Returns:
        A network whose label-free answers are the same, in evaluation mode. It cannot learn any more.

    Raises:
        ValueError: If the network routes by labels.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
        >>> smaller = only_routed(network, network.choices())
        >>> smaller.capsule_names, [sum(p.numel() for p in each.parameters()) for each in (network, smaller)]
        ([['block0.k3']], [128480, 47922])
    """
    if BY_LABELS in choices:
        raise ValueError(
            "inference_routing='oracle' routes by labels, which nobody has when it predicts; set "
            "model.inference_routing = 'majority'"
        )
    copied = copy.deepcopy(network).eval()
    blocks = copied.prime_blocks
    route = choices[: len(blocks)] if network.local else (0,) * len(blocks)
    copied.inference_routing = "min_entropy" if EACH_SUREST in route else "majority"
    copied.history = RouteHistory(1, len(blocks))
    for block, choice in zip(blocks, route, strict=True):
        block.history = RouteHistory(1)
        block.projection_classifier = None
        if choice != EACH_SUREST:
            _keep(block, choice, keep_classifiers)
    return copied


def _keep(block: PrimeBlock, choice: int, keep_classifiers: bool) -> None:
    """Keep one capsule, where one is routed, and of each the features."""
    router = block.router
    if router.chooses and type(router).infer is Router.infer:
        name = block.capsule_names[choice]
        block.capsules = CapsuleDict({name: block.capsules.named(name)})
        block.router = LeastLoss()
        block.router.build(block.in_shape, 1, router.block_index)
    for capsule in block.in_order:
        capsule.loss = None
        if not keep_classifiers:
            capsule.classifier = nn.Identity()
