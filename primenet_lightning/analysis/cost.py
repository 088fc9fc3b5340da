"""What a network costs: parameters and multiply-adds, counted on real passes."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning.nn.cutting.network import CutNetwork, LocalShare
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.capsules import ConvFeatures
from primenet_lightning.nn.prime.mixing import Gate
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routes import BY_LABELS
from primenet_lightning.nn.stages import Route
from primenet_lightning.nn.systems.dynamic import DynamicNetwork
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.runner import StageRunner

Module = TypeVar("Module", bound=nn.Module)


class Cost(NamedTuple):
    """The cost of a network, for one image.

    Attributes:
        parameters: Of everything: in a `PrimeNetwork` all capsules, their classifiers, projections and head. Of a
            network that another one is left of when its training is over (`StagedNetwork.deployed`), of that one.
        multiply_adds_inference: Of a label-free forward, of that network too; a multiplication and its addition count
            as one.
        multiply_adds_training: Of a training step without the optimizer: forward and backward of everything that
            learns, in a `PrimeNetwork` of all capsules, projections and head. Of a fit in phases the mean of its steps.
    """

    parameters: int
    multiply_adds_inference: int
    multiply_adds_training: int


def count_cost(network: StagedNetwork, route: Route | None = None, as_run: bool = False) -> Cost:
    """Count with torch's own FLOP counter on a copy of the network, which is left as it was.

    The counter sees convolutions and matrix products; norms, activations and poolings are outside it, as in the
    papers' tables.

    Args:
        network: The network, a `PrimeNetwork` or any other row of stages; its input shape is known to it.
        route: The route at inference; None takes the network's own.
        as_run: Count what is computed, with pairs of convolutions folded into one where `ConvFeatures` does so. False
            counts layer by layer what the architecture says, as the papers' tables do.

    Returns:
        The cost.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> from primenet_lightning.nn.prime.network import PrimeNetwork
        >>> compact = PrimeNetwork.build(1, (28, 28), 10, architecture("compact", (28, 28)))
        >>> count_cost(compact, route=(2,))  # the 7x7 capsule
        Cost(parameters=141344, multiply_adds_inference=2602112, multiply_adds_training=10663232)
        >>> count_cost(compact, route=(2,), as_run=True)
        Cost(parameters=141344, multiply_adds_inference=1520192, multiply_adds_training=4899264)
    """
    parameters = _parameters(_copy(network).deployed())
    return Cost(parameters, count_inference(network, route, as_run), count_training(network, as_run))


def local_share(network: StagedNetwork) -> LocalShare | None:
    """Tell what local classifiers, and what else parts learn from, make up of a network in training.

    Args:
        network: The network.

    Returns:
        Their shares; None of a network that is not a `CutNetwork`.

    Example:
        >>> from primenet_lightning.nn.cutting.network import CutNetwork
        >>> layers = [nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)]
        >>> local_share(CutNetwork(nn.Sequential(*layers), (1, 8, 8), at=["3"], recipe="greedy"))
        LocalShare(parameters=0.12062256809338522, multiply_adds=0.11904761904761904)
    """
    if not isinstance(network, CutNetwork):
        return None
    return network.local_share()


def count_module(
    module: nn.Module,
    in_shape: tuple[int, int, int],
    loss: Callable[[Any, Tensor], Tensor] = cross_entropy,
) -> Cost:
    """Count any other network, by the convention of `count_cost` and on a copy too.

    Inference is one forward in evaluation mode; a training step is forward and backward of ``loss`` in training mode.
    The images need no gradient, nor do parameters with ``requires_grad=False``, so that neither is computed; where
    nothing needs one, a training step is the forward alone. What learns otherwise than by ``loss(module(images))`` is
    not seen: count the ``network`` of a `PrimeNet` with `count_cost`. A `WholeNetwork`, as an `EndToEnd` has it, is
    counted with the loss of its own.

    Args:
        module: From images to what ``loss`` takes.
        in_shape: Channels, height and width of the images.
        loss: From the module's output and targets, class indices ``(batch,)``, all 0 here, to a scalar.

    Returns:
        The cost.

    Raises:
        ValueError: If the module cannot take such images, or is a `PrimeNetwork`, whose training step is another.

    Example:
        >>> count_module(nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)), (1, 28, 28))
        Cost(parameters=79510, multiply_adds_inference=79400, multiply_adds_training=159800)
    """
    if isinstance(module, WholeNetwork):
        return count_cost(module)
    if isinstance(module, StagedNetwork):
        raise ValueError(f"module is a {type(module).__name__}, which trains by stages; count it with count_cost")
    network = WholeNetwork(module, in_shape, loss, logits=None)
    try:
        inference = count_inference(network)
    except RuntimeError as error:
        raise ValueError(f"module cannot take images of in_shape={in_shape}: {error}") from error
    return Cost(_parameters(_copy(network).deployed()), inference, count_training(network))


def count_training(network: StagedNetwork, as_run: bool = False) -> int:
    """Count the multiply-adds of a training step, as `count_cost` does.

    Args:
        network: The network.
        as_run: Count what is computed, not what the architecture says.

    Returns:
        Multiply-adds per image; of a network whose fit has phases, the mean over the fit.
    """
    if isinstance(network, DynamicNetwork):
        return _count_phases(network, as_run)
    return _count_step(network, as_run)


def _count_phases(network: DynamicNetwork, as_run: bool) -> int:
    network = copy.deepcopy(network)
    mean = 0.0
    for position, share in network.shares_of_phases().items():
        network.position = position
        mean += share * _count_step(network, as_run)
    return round(mean)


def _count_step(network: StagedNetwork, as_run: bool) -> int:
    runner = StageRunner(_copy(network, as_run).train())

    def step(images: Tensor) -> None:
        runner.run(images, torch.zeros(len(images), dtype=torch.int64))

    return _per_image(step, network.in_shape)


def count_inference(network: StagedNetwork, route: Route | None = None, as_run: bool = False) -> int:
    """Count the multiply-adds of a label-free forward, as `count_cost` does.

    Args:
        network: The network.
        route: The route, of a `PrimeNetwork`; None takes the network's own.
        as_run: Count what is computed, not what the architecture says.

    Returns:
        Multiply-adds per image, of the network that is left when training is over (`StagedNetwork.deployed`). Where a
        gate chooses, which depends on the images, the mean over its capsules.
    """
    copied = _copy(network, as_run).deployed().eval()
    gated = [stage for stage in copied.stages if isinstance(stage, PrimeBlock) and isinstance(stage.router, Gate)]
    if not gated:
        return _count_forward(copied, route)
    counts: list[int] = []
    for turn in range(math.lcm(*(len(block.capsules) for block in gated))):
        for block in gated:
            block.router = _OneCapsule(block.router, turn % len(block.capsules))
        counts.append(_count_forward(copied, None))
    return round(sum(counts) / len(counts))


class _OneCapsule(Router):
    """Scores as a gate does, and then takes one capsule, whatever the scores."""

    chooses = False

    def __init__(self, gate: nn.Module, index: int) -> None:
        super().__init__()
        self.gate: nn.Module = gate.gate if isinstance(gate, _OneCapsule) else gate
        self.index = index

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Score, and compute the one capsule."""
        self.gate(x)
        return super().infer(x, features, self.index)


def _count_forward(copied: StagedNetwork, route: Route | None) -> int:
    @torch.no_grad()
    def forward(images: Tensor) -> None:
        if route is None and BY_LABELS in copied.choices():  # which must see every capsule's loss
            copied.evaluate(images, torch.zeros(len(images), dtype=torch.int64))
        elif route is None:
            copied(images)
        else:
            copied(images, route)

    return _per_image(forward, copied.in_shape)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _copy(module: Module, as_run: bool = False) -> Module:
    # of a stage that another process of a pipeline runs there are no numbers, and none are needed
    copied = copy.deepcopy(module)
    apply: Callable[[Callable[[Tensor], Tensor]], Any] = copied._apply
    apply(_with_numbers)
    copied.float()
    for part in copied.modules():
        if isinstance(part, ConvFeatures):
            part.folds &= as_run
    return copied


def _with_numbers(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor.cpu()


def _per_image(run: Callable[[Tensor], None], in_shape: tuple[int, ...]) -> int:
    """Multiply-adds that one image more costs: products of weights are made once per batch and are not in it."""
    totals = []
    with torch.random.fork_rng(devices=[]):  # dropout draws from the generator that a training goes on with
        for batch in (2, 3):  # not one, since batch norm in training needs more than one value
            with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
                run(torch.zeros(batch, *in_shape))
            totals.append(int(counter.get_total_flops()))
    return (totals[1] - totals[0]) // 2  # the counter counts each as two operations


def _convolution_backward(
    gradient: torch.Size, x: torch.Size, weight: torch.Size, *options: Any, out_shape: Any, **_: Any
) -> int:
    """Each gradient of a convolution costs what the convolution does; torch's own formula forgets groups."""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, wanted = options
    pixels = math.prod((x if transposed else gradient)[2:])
    once = 2 * x[0] * pixels * math.prod(weight)
    return once * (int(wanted[0]) + int(wanted[1]))


_FORMULAS = {torch.ops.aten.convolution_backward: _convolution_backward}
