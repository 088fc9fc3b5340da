"""Steps on a GPU: their time, their share of the card's rate, the gaps between kernels; local over end to end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import checkout  # noqa: F401
import torch
from gpu_checks import gradients_apart, gradients_of, peak_bytes
from gpu_place import Figures, Place, Sizes
from stacks import Pair, cut_resnet, runner_of, stack
from timing import in_turns, ratio, spread
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from ways import make_batch

from primenet_lightning import EndToEndNetwork, PrimeNetwork, Rhythm, StagedNetwork, StageRunner, architecture
from primenet_lightning.analysis.cost import count_training
from primenet_lightning.callbacks.cuda_graphs import room_for_versions
from primenet_lightning.nn.prime.architecture import Size


class Way(NamedTuple):
    """How a step is run.

    Attributes:
        name: Of the way.
        precision: ``torch.float32`` or ``torch.bfloat16``, by autocast.
        mode: Of ``torch.compile``; None runs what is written.
    """

    name: str
    precision: torch.dtype = torch.float32
    mode: str | None = None


_ALL_WAYS = (
    Way("eager"),
    Way("eager_bf16", torch.bfloat16),
    Way("compiled_bf16", torch.bfloat16, "default"),
    Way("cuda_graphs_bf16", torch.bfloat16, "reduce-overhead"),
)
WAYS = {way.name: way for way in _ALL_WAYS}
"""By name. ``reduce-overhead`` captures what a stage calls, forward and backward, as CUDA graphs."""


def pairs(sizes: Sizes) -> dict[str, Callable[[], Pair]]:
    """Name the stacks and cut networks."""
    shape = (3, sizes.side, sizes.side)
    networks: dict[str, Callable[[], Pair]] = {}
    for depth in sizes.depths:
        for capsules in sizes.capsules:
            networks[f"stack{depth}_capsules{capsules}"] = partial(stack, depth, capsules, in_shape=shape)
    width = 4 if sizes.small else 64
    for parts in sizes.parts:
        networks[f"resnet_parts{parts}"] = partial(cut_resnet, parts, 8 if sizes.small else 20, width, shape)
    return networks


def batch_for(network: StagedNetwork, place: Place) -> tuple[Tensor, Tensor]:
    """Make images and labels that a network takes, where it is."""
    channels, height, width = network.in_shape
    images, target = make_batch(place.sizes.batch, (channels, height, width))
    return images.to(place.device), target.to(place.device)


def step_of(runner: StageRunner, images: Tensor, target: Tensor, way: Way) -> Callable[[], object]:
    """Make a step under a precision."""

    def step() -> None:
        if way.mode == "reduce-overhead":
            begin_step()
        with torch.autocast(images.device.type, way.precision, enabled=way.precision != torch.float32):
            runner.step(images, target)

    return step


@contextmanager
def compiled(network: StagedNetwork, mode: str | None, place: Place) -> Iterator[None]:
    """Compile what the stages of a network call, which is used no more after that.

    Args:
        network: In place.
        mode: Of ``torch.compile``; None leaves the network as it is written.
        place: Says by which backend.

    Yields:
        Nothing.
    """
    if mode is None:
        yield
        return
    modules = network.called_modules()
    options: dict[str, Any] = {"backend": place.sizes.backend, "dynamic": False}
    if place.sizes.backend == "inductor":
        options["mode"] = mode
    config: Any = torch._dynamo.config
    with room_for_versions(len(modules)), config.patch(fail_on_recompile_limit_hit=True):
        for module in modules:
            module.compile(**options)
        try:
            yield
        finally:
            torch._dynamo.reset()


def cuda_graphs_learn_the_same(place: Place) -> Figures:
    """Compare gradients as written with those of CUDA graphs of what the stages call, and then 20 steps of both.

    The gradients are those of a pass that is replayed, long after the capture. Products are whole float32 here.
    """
    gradients: list[list[Tensor]] = []
    losses: list[list[float]] = []
    for mode in (None, "reduce-overhead"):
        network = stack(2, 2, in_shape=(3, place.sizes.side, place.sizes.side)).local.to(place.device)
        images, target = batch_for(network, place)
        runner = runner_of(network)
        with whole_float32(), compiled(network, mode, place):
            for _ in range(place.sizes.warm_up):
                network.zero_grad()
                begin_step()
                runner.run(images, target)
            gradients.append(gradients_of(network))
            network.zero_grad()
            losses.append([])
            for _ in range(20):
                begin_step()
                losses[-1].append(runner.step(images, target).total)
    apart = gradients_apart(*gradients)
    last, last_of_graphs = losses[0][-1], losses[1][-1]
    learns_the_same = abs(last - last_of_graphs) < 0.02 * last < 0.02 * losses[0][0]
    return {"losses": losses, "gradients_apart": apart, "holds": apart < 1e-3 and learns_the_same}


def begin_step() -> None:
    """Let go of what graphs computed in the step before."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


@contextmanager
def whole_float32() -> Iterator[None]:
    """Multiply without TF32, whose rounding would hide what differs."""
    convolutions: Any = torch.backends.cudnn
    before = (torch.get_float32_matmul_precision(), convolutions.allow_tf32)
    torch.set_float32_matmul_precision("highest")
    convolutions.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        convolutions.allow_tf32 = before[1]


def seconds_of(step: Callable[[], object], warm_up: int, place: Place) -> float:
    """Time a step: many of them with one wait at the end, after some that warm up."""
    for _ in range(warm_up):
        step()
    place.synchronize()
    start = time.perf_counter()
    for _ in range(place.sizes.steps):
        step()
    place.synchronize()
    return (time.perf_counter() - start) / place.sizes.steps


def busy_seconds(step: Callable[[], object], place: Place) -> float:
    """Time for which the device computes in a step, by torch's profiler.

    Raises:
        RuntimeError: If the profiler has seen no kernel.
    """
    activity = ProfilerActivity.CUDA if place.device == "cuda" else ProfilerActivity.CPU
    count = min(3, place.sizes.steps)
    with profile(activities=[activity]) as profiler:
        for _ in range(count):
            step()
        place.synchronize()
    total = 0.0
    for event in profiler.key_averages():
        total += event.self_device_time_total if place.device == "cuda" else event.self_cpu_time_total
    if not total:
        raise RuntimeError("torch's profiler has seen no kernel; CUPTI may not be at hand")
    return 1e-6 * total / count


@cache
def product_rate(device: str, precision: torch.dtype, size: int) -> float:
    """Measure how many multiply-adds a second a matrix product of this size has, the best of five times ten."""
    matrix = torch.randn(size, size, device=device, dtype=precision)
    product = torch.empty_like(matrix)
    seconds: list[float] = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(10):
            torch.mm(matrix, matrix, out=product)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / 10)
    return float(size**3 / min(seconds))


def step_figures(build: Callable[[], StagedNetwork], way: Way, place: Place) -> Figures:
    """Measure the step of a network.

    Args:
        build: Makes the network, the same one at each call.
        way: How the step is run.
        place: Where.

    Returns:
        Milliseconds, images a second, the share of the device's rate, and the share of the time with no kernel.
    """
    count = count_training(build(), as_run=True)
    rate = product_rate(place.device, way.precision, place.sizes.product)
    network = build().to(place.device)
    runner = runner_of(network)
    images, target = batch_for(network, place)
    with compiled(network, way.mode, place):
        step = step_of(runner, images, target, way)
        seconds = seconds_of(step, 3 if way.mode is None else place.sizes.warm_up, place)
        busy = busy_seconds(step, place)
    return {
        "ms": 1000 * seconds,
        "images_per_second": place.sizes.batch / seconds,
        "multiply_adds_per_image": count,
        "share_of_rate": place.sizes.batch * count / seconds / rate,
        "rate_in_multiply_adds": rate,
        "busy_ms": 1000 * busy,
        "gap_share": max(0.0, 1 - busy / seconds),
    }


def size_step(size: Size, way: Way, place: Place) -> Figures:
    """Measure `compact` or `paper` on images like those of CIFAR-10."""

    def build() -> PrimeNetwork:
        torch.manual_seed(0)
        side = (place.sizes.side, place.sizes.side)
        return PrimeNetwork.build(3, side, 10, architecture(size, side))

    return step_figures(build, way, place)


def pair_step(name: str, way: Way, place: Place) -> Figures:
    """Measure a stack or cut network, and its twin."""
    build = pairs(place.sizes)[name]
    return {
        "local": step_figures(lambda: build().local, way, place),
        "twin": step_figures(lambda: build().twin, way, place),
    }


# -- local over end to end ---------------------------------------------------------------------------------------------


def stages_end_to_end(pair: Pair) -> list[Callable[[Tensor], Tensor]]:
    """The same stages as layers of the end-to-end network, from images to logits."""
    if isinstance(pair.twin, EndToEndNetwork):
        return [*(block.through for block in pair.twin.prime_blocks), pair.twin.head]
    return [stage.through for stage in pair.local.stages]


def through_checkpoints(stages: Sequence[Callable[[Tensor], Tensor]], images: Tensor, target: Tensor) -> None:
    """Go backward end to end through all stages; of each only the input is kept, the rest is computed again."""
    x = images
    for stage in stages:
        x = checkpoint(stage, x, use_reentrant=False)
    torch.autograd.backward(functional.cross_entropy(x.float(), target))


def accumulated(runner: StageRunner, images: Tensor, target: Tensor, window: int = 4) -> None:
    """Compute the gradients of a batch in so many parts."""
    for some, of_some in zip(images.chunk(window), target.chunk(window), strict=True):
        runner.run(some, of_some, window=window)


def local_over_end_to_end(name: str, place: Place) -> Figures:
    """Set time and memory of local learning beside end-to-end backprop, checkpointed and accumulated.

    Args:
        name: Of `pairs`.
        place: Where.

    Returns:
        The ratio of times, taken in turns, and by way the bytes of a step without optimizer.
    """
    pair = pairs(place.sizes)[name]()
    local, twin = pair.local.to(place.device), pair.twin.to(place.device)
    images, target = batch_for(local, place)
    steps: dict[str, Callable[[], object]] = {}
    for side, network in (("local", local), ("twin", twin)):
        steps[side] = partial(runner_of(network).step, images, target)
    times = in_turns(steps, place.sizes.rounds, 3, place.synchronize)
    ratios = ratio(times["local"], times["twin"])
    figures: Figures = {side: 1000 * spread(seconds).median for side, seconds in times.items()}
    figures |= {"time_local_over_twin": ratios.median, "quartiles": [ratios.low, ratios.high]}
    # memory, and time once more
    ways: dict[str, tuple[StagedNetwork, Callable[[], Any]]] = {
        "local_by_stage": (local, partial(StageRunner(local).run, images, target)),
        "local_by_learner": (local, partial(StageRunner(local, rhythm=Rhythm(backward="learner")).run, images, target)),
        "local_by_stage_accumulated": (local, partial(accumulated, StageRunner(local), images, target)),
        "twin": (twin, partial(StageRunner(twin).run, images, target)),
        "twin_accumulated": (twin, partial(accumulated, StageRunner(twin), images, target)),
        "twin_checkpointed": (twin, partial(through_checkpoints, stages_end_to_end(pair), images, target)),
    }
    figures["bytes"] = {}
    for way, (network, step) in ways.items():
        step()
        uncounted = [*network.parameters(), *network.buffers(), images, target]
        figures["bytes"][way] = peak_bytes(place, step, uncounted)
        place.synchronize()
        start = time.perf_counter()
        step()
        place.synchronize()
        figures.setdefault("ms_without_optimizer", {})[way] = 1000 * (time.perf_counter() - start)
    return figures
