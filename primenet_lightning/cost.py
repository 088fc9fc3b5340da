"""What a network costs: parameters and multiply-adds, counted on real passes."""

import copy
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning.network import PrimeNetwork
from primenet_lightning.routing import Route


class Cost(NamedTuple):
    """The cost of a network, for one image.

    Attributes:
        parameters: Of everything: all capsules, their classifiers, projections and head.
        multiply_adds_inference: Of a label-free forward; a multiplication and its addition count as one.
        multiply_adds_training: Of a training step without the optimizer: forward and backward of all capsules,
            projections and head.
    """

    parameters: int
    multiply_adds_inference: int
    multiply_adds_training: int


def count_cost(network: PrimeNetwork, route: Route | None = None) -> Cost:
    """Count with torch's own FLOP counter on a copy of the network, which is left as it was.

    The counter sees convolutions and matrix products; norms, activations and poolings are outside it, as in the
    papers' tables.

    Args:
        network: The network; its input shape is known to it.
        route: The route at inference; None takes the network's own.

    Returns:
        The cost.

    Example:
        >>> from primenet_lightning.presets import architecture
        >>> compact = PrimeNetwork.build(1, (28, 28), 10, architecture("compact", (28, 28)))
        >>> count_cost(compact, route=(2,))  # the 7x7 capsule
        Cost(parameters=141344, multiply_adds_inference=2602112, multiply_adds_training=10663232)
    """
    return Cost(sum(p.numel() for p in network.parameters()), count_inference(network, route), count_training(network))


def count_training(network: PrimeNetwork) -> int:
    """Count the multiply-adds of a training step, as `count_cost` does.

    Args:
        network: The network.

    Returns:
        Multiply-adds an image.
    """
    copied = copy.deepcopy(network).cpu().float().train()
    images = torch.zeros(2, *network.in_shape)  # two, since batch norm in training needs more than one value
    with FlopCounterMode(display=False) as counter:
        for stage in copied.stages(images, torch.zeros(2, dtype=torch.int64)):
            torch.autograd.backward(list(stage.losses.values()))
    return _per_image(counter, images)


def count_inference(network: PrimeNetwork, route: Route | None = None) -> int:
    """Count the multiply-adds of a label-free forward, as `count_cost` does.

    Args:
        network: The network.
        route: The route; None takes the network's own.

    Returns:
        Multiply-adds an image.
    """
    copied = copy.deepcopy(network).cpu().float().eval()
    images = torch.zeros(2, *network.in_shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if route is None and network.inference_routing == "oracle":  # which must see every capsule's loss
            copied.evaluate(images, torch.zeros(2, dtype=torch.int64))
        else:
            copied(images, route)
    return _per_image(counter, images)


def _per_image(counter: FlopCounterMode, images: torch.Tensor) -> int:
    """Multiply-adds an image; the counter counts each as two operations."""
    return int(counter.get_total_flops()) // (2 * len(images))
