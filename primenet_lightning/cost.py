"""What a network costs: parameters and multiply-adds, counted on real passes."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning.capsules import ConvFeatures
from primenet_lightning.distributed import Average
from primenet_lightning.network import PrimeNetwork
from primenet_lightning.routers import Gate, Router
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


def count_cost(network: PrimeNetwork, route: Route | None = None, as_run: bool = False) -> Cost:
    """Count with torch's own FLOP counter on a copy of the network, which is left as it was.

    The counter sees convolutions and matrix products; norms, activations and poolings are outside it, as in the
    papers' tables.

    Args:
        network: The network; its input shape is known to it.
        route: The route at inference; None takes the network's own.
        as_run: Count what is computed, with pairs of convolutions folded into one where `ConvFeatures` does so. False
            counts layer by layer what the architecture says, as the papers' tables do.

    Returns:
        The cost.

    Example:
        >>> from primenet_lightning.presets import architecture
        >>> compact = PrimeNetwork.build(1, (28, 28), 10, architecture("compact", (28, 28)))
        >>> count_cost(compact, route=(2,))  # the 7x7 capsule
        Cost(parameters=141344, multiply_adds_inference=2602112, multiply_adds_training=10663232)
        >>> count_cost(compact, route=(2,), as_run=True)
        Cost(parameters=141344, multiply_adds_inference=1520192, multiply_adds_training=4899264)
    """
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(parameters, count_inference(network, route, as_run), count_training(network, as_run))


def count_training(network: PrimeNetwork, as_run: bool = False) -> int:
    """Count the multiply-adds of a training step, as `count_cost` does.

    Args:
        network: The network.
        as_run: Count what is computed, not what the architecture says.

    Returns:
        Multiply-adds an image.
    """
    copied = _copy(network, as_run).train()

    def step(images: Tensor) -> None:
        for stage in copied.stages(images, torch.zeros(len(images), dtype=torch.int64)):
            torch.autograd.backward(list(stage.losses.values()))

    return _per_image(step, network)


def count_inference(network: PrimeNetwork, route: Route | None = None, as_run: bool = False) -> int:
    """Count the multiply-adds of a label-free forward, as `count_cost` does.

    Args:
        network: The network.
        route: The route; None takes the network's own.
        as_run: Count what is computed, not what the architecture says.

    Returns:
        Multiply-adds an image. Where a gate chooses, which depends on the images, the mean over its capsules.
    """
    copied = _copy(network, as_run).eval()
    gated = [block for block in copied.prime_blocks if isinstance(block.router, Gate)]
    if gated:
        counts = []
        for turn in range(math.lcm(*(len(block.capsules) for block in gated))):
            for block in gated:
                block.router = _Taken(block.router, turn % len(block.capsules))
            counts.append(_count_forward(copied, network, None))
        return round(sum(counts) / len(counts))
    return _count_forward(copied, network, route)


class _Taken(Gate):
    """A gate that scores and then takes one capsule, whatever the scores."""

    def __init__(self, gate: Router, taken: int) -> None:
        super().__init__(per="batch")
        assert isinstance(gate, Gate)
        self.classifier, self.taken = gate.classifier, taken

    def _of_batch(self, x: Tensor, average: Average | None = None) -> int:
        self(x)
        return self.taken


def _count_forward(copied: PrimeNetwork, network: PrimeNetwork, route: Route | None) -> int:
    @torch.no_grad()
    def forward(images: Tensor) -> None:
        if route is None and network.inference_routing == "oracle":  # which must see every capsule's loss
            copied.evaluate(images, torch.zeros(len(images), dtype=torch.int64))
        else:
            copied(images, route)

    return _per_image(forward, network)


def _copy(network: PrimeNetwork, as_run: bool) -> PrimeNetwork:
    copied = copy.deepcopy(network).cpu().float()
    for module in copied.modules():
        if isinstance(module, ConvFeatures):
            module.folds &= as_run
    return copied


def _per_image(run: Callable[[Tensor], None], network: PrimeNetwork) -> int:
    """Multiply-adds that one image more costs: products of weights are made once a batch and are not in it."""
    totals = []
    for batch in (2, 3):  # not one, since batch norm in training needs more than one value
        with FlopCounterMode(display=False) as counter:
            run(torch.zeros(batch, *network.in_shape))
        totals.append(int(counter.get_total_flops()))
    return (totals[1] - totals[0]) // 2  # the counter counts each as two operations
