"""How fast a network learns: ours over what a user would pick instead, and over what the machine could do.

    python benchmarks/training.py [--root DIR] [--only NAME ...] [--rounds N] [--threads N] [--device cpu|cuda]
    python benchmarks/training.py --stacks [NAME ...] [--rounds N]

Both sizes, on MNIST and CIFAR-10, batches of 200 from our data modules, both sides fed the same way and taking turns
step by step:

- naive: local learning written down in plain torch, a backward pass and a default Adam a capsule, float32;
- ours: this package's network, optimizers and loop, `StageRunner`, float32; ours_bf16: the same under autocast to
  bfloat16; naive_bf16;
- end_to_end: this package's network, one backward of the head's loss through the mean of all maps, our fused Adam;
- deeply_supervised: the same with all losses that ours has (Lee et al. 2015), summed, their gradients crossing;
- naive_end_to_end: end_to_end in plain torch;
- one_scale: the plain 5x5 network by backprop in plain torch;
- without_folding, without_channels_last, without_fused_adam: ours in float32 with one of these left out.

Shares of the limit: the multiply-adds of a step over its time, over the rate of this machine's best matrix product or
convolution in the same precision. ``share_written`` counts layer by layer what the architecture says, ``share_run``
what is computed where convolutions are folded; for the naive side both are the same.

Then stacks of 1, 3 and 6 blocks with 1, 2 and 3 capsules, before and after they commit, one of them with every router,
and a ResNet in 2 and 4 parts, over the same networks end to end in the same engine, with the same fast paths; with one
thread, since what counts is processor time. Where a router chooses by losses, the twin hands on the mean of all maps.
``--only`` leaves the stacks out, and ``--stacks`` all else. The last line is one JSON object; the command fails if a
required ratio is not reached.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from unittest.mock import patch

import over_end_to_end
import torch
from references import PlainPrimeNet, Step, mean_and_projection, naive, naive_end_to_end, one_scale
from timing import Bound, best_rate, conclude, in_turns, machine, ratio, spread
from torch import Tensor
from torch.nn import functional

from primenet_lightning import CompositeOptimizer, PaperAdam, PrimeNetwork, StageRunner, architecture
from primenet_lightning.analysis.cost import count_training
from primenet_lightning.datamodules import CIFAR10DataModule, ImageDataModule, MNISTDataModule
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.prime.architecture import Size
from primenet_lightning.nn.prime.capsules import ConvFeatures

BATCH = 200
DATA = {"mnist": MNISTDataModule, "cifar10": CIFAR10DataModule}
CASES: dict[str, tuple[Size, str]] = {
    "compact_mnist": ("compact", "mnist"),
    "compact_cifar10": ("compact", "cifar10"),
    "paper_mnist": ("paper", "mnist"),
    "paper_cifar10": ("paper", "cifar10"),
}
BOUNDS = [
    Bound("compact_mnist_ours_over_naive", "at least", 1.5),
    Bound("paper_cifar10_ours_over_naive", "at least", 1.3),
    Bound("paper_mnist_bf16_over_naive", "at least", 2.5),
    Bound("paper_cifar10_bf16_over_naive", "at least", 2.5),
    # none over end to end without local losses: it has no local classifiers, which read and write whole maps
    *(Bound(f"{case}_time_over_deeply_supervised", "at most", 1.05) for case in CASES),
    *(Bound(f"{case}_time_over_naive_end_to_end", "at most", 1.0) for case in CASES),
]


def adams(network: PrimeNetwork, fused: bool | None = None) -> CompositeOptimizer:
    """The paper's Adam for every learner; without ``fused``, each by calls of its own."""
    optimizer = CompositeOptimizer(
        {name: PaperAdam(parameters, fused=fused) for name, parameters in network.learners().items()}
    )
    if fused is False:
        for child in optimizer.children.values():
            child.register_step_post_hook(lambda *_: None)  # one with hooks is not pooled with others
    return optimizer


def local(network: PrimeNetwork, fused: bool | None = None) -> Step:
    """A step of this package without Lightning: the very loop that a Trainer runs, too."""
    return StageRunner(network, adams(network, fused)).step


def without_folding(network: PrimeNetwork) -> Step:
    """The same, each convolution by itself."""
    for module in network.modules():
        if isinstance(module, ConvFeatures):
            module.folds = False
    return local(network)


def without_channels_last(network: PrimeNetwork) -> Step:
    """The same in torch's default layout."""
    step = local(network)

    def run(images: Tensor, target: Tensor) -> None:
        with ExitStack() as stack:
            for room in ("prime.projection", "prime.capsules", "classifiers"):
                stack.enter_context(patch(f"primenet_lightning.nn.{room}.channels_last", lambda x: x))
            step(images, target)

    return run


def end_to_end(network: PrimeNetwork) -> Step:
    """The same network by backprop, with everything that makes ours fast."""
    (block,) = network.prime_blocks
    learning: list[torch.nn.Parameter] = []  # all but the local classifiers
    for capsule in block.in_order:
        learning += capsule.features.parameters()
    optimizer = PaperAdam([*learning, *block.left_to_next(), *network.head.parameters()])

    def step(images: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        logits = network.head(mean_and_projection(block, images))
        torch.autograd.backward(functional.cross_entropy(logits.float(), target))
        optimizer.step()

    return step


def deeply_supervised(network: PrimeNetwork) -> Step:
    """By backprop from the sum of all losses that local learning has, with everything that makes ours fast."""
    (block,) = network.prime_blocks
    optimizer = PaperAdam(network.parameters())

    def step(images: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        maps, logits = zip(*[capsule(images) for capsule in block.in_order], strict=True)
        of_head = network.head(block.join(images, sum(maps[1:], maps[0]) / len(maps)))
        losses = [cross_entropy(answer, target) for answer in (*logits, of_head)]
        torch.autograd.backward(torch.stack(losses).sum())
        optimizer.step()

    return step


def fed(step: Step, data: ImageDataModule, device: str, autocast: bool = False) -> Callable[[], None]:
    """A step with its batch: out of memory, to the device, normalised there."""
    batches = endless(data)

    def run() -> None:
        images, target = next(batches)
        images, target = data.normalize(images.to(device)), target.to(device)
        context: AbstractContextManager[object] = torch.autocast(device, torch.bfloat16, enabled=autocast)
        with context:
            step(images, target)

    return run


def endless(data: ImageDataModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, epoch after epoch, without those that end an epoch with another size."""
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            if len(batch[1]) == BATCH:
                yield batch


def sides(size: Size, data: ImageDataModule, device: str) -> tuple[dict[str, Callable[[], None]], PrimeNetwork]:
    """All sides of a case, from equal parameters, and one of the networks to count."""
    shape = (data.in_channels, *data.image_size)
    widths = architecture(size, data.image_size)

    def ours() -> PrimeNetwork:
        torch.manual_seed(0)
        return PrimeNetwork.build(data.in_channels, data.image_size, data.num_classes, widths).to(device)

    def plain() -> PlainPrimeNet:
        return PlainPrimeNet(shape, widths).to(device).copy_from(ours())

    return {
        "naive": fed(naive(plain()), data, device),
        "ours": fed(local(ours()), data, device),
        "ours_bf16": fed(local(ours()), data, device, autocast=True),
        "naive_bf16": fed(naive(plain()), data, device, autocast=True),
        "end_to_end": fed(end_to_end(ours()), data, device),
        "deeply_supervised": fed(deeply_supervised(ours()), data, device),
        "naive_end_to_end": fed(naive_end_to_end(plain()), data, device),
        "one_scale": fed(one_scale(shape, widths, device), data, device),
        "without_folding": fed(without_folding(ours()), data, device),
        "without_channels_last": fed(without_channels_last(ours()), data, device),
        "without_fused_adam": fed(local(ours(), fused=False), data, device),
    }, ours()


def measure(case: str, data: ImageDataModule, rounds: int, device: str) -> dict[str, float]:
    """Time a case and print its table.

    Returns:
        Figures by name, each beginning with the case's.
    """
    steps, network = sides(CASES[case][0], data, device)
    times = in_turns(steps, rounds, synchronize=torch.cuda.synchronize if device == "cuda" else None)
    written = count_training(network)
    as_run = count_training(network, as_run=True)
    print(f"\n{case}: {written / 1e6:.2f} M multiply-adds per image as written, {as_run / 1e6:.2f} M as run")
    figures = speeds(times) | ratios(times) | shares(times, written, as_run, device)
    return {f"{case}_{name}": figure for name, figure in figures.items()}


def speeds(times: dict[str, list[float]]) -> dict[str, float]:
    """Images a second by side, printed as a table."""
    figures: dict[str, float] = {}
    print(f"{'':>22} {'images/s':>9}  {'ms a step':<26} times as fast as naive")
    for name, seconds in times.items():
        low, middle, high = spread([1000 * second for second in seconds])
        figures[f"{name}_images_per_second"] = 1000 * BATCH / middle
        milliseconds = f"{middle:.1f} ({low:.1f} to {high:.1f})"
        print(f"{name:>22} {1000 * BATCH / middle:9.0f}  {milliseconds:<26} {ratio(times['naive'], seconds)}")
    return figures


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Ours over the other sides, and what is left out over ours; those over backprop printed."""
    figures = {
        "ours_over_naive": ratio(times["naive"], times["ours"]).median,
        "bf16_over_naive": ratio(times["naive"], times["ours_bf16"]).median,
    }
    for name in ("end_to_end", "deeply_supervised", "naive_end_to_end"):
        over = ratio(times["ours"], times[name])
        figures[f"time_over_{name}"] = over.median
        print(f"step time over {name} {over}")
    for name in ("without_folding", "without_channels_last", "without_fused_adam"):
        figures[name] = ratio(times[name], times["ours"]).median
    return figures


def shares(times: dict[str, list[float]], written: int, as_run: int, device: str) -> dict[str, float]:
    """Shares of the limit, and the limit, printed; counts are multiply-adds per image."""
    best = {"float32": best_rate(torch.float32, device), "bfloat16": best_rate(torch.bfloat16, device)}
    figures = {f"best_gflops_{precision}": 2e-9 * rate for precision, rate in best.items()}
    for name, count, kind, precision in (
        ("naive", written, "written", "float32"),
        ("ours", written, "written", "float32"),
        ("ours", as_run, "run", "float32"),
        ("ours_bf16", as_run, "run", "bfloat16"),
    ):
        share = BATCH * count / spread(times[name]).median / best[precision]
        figures[f"{name}_share_{kind}"] = share
        print(f"share of the limit, {name}, multiply-adds as {kind}: {share:.3f}")
    return figures


def main() -> None:
    """Measure, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("PRIMENET_DATA", "data"), help="Folder of the data.")
    parser.add_argument("--only", nargs="+", choices=CASES, help="Only these, and no stacks.")
    parser.add_argument("--rounds", type=int, default=7, help="Rounds of paper; compact has three times as many.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    stacks = list(over_end_to_end.cases())
    parser.add_argument("--stacks", nargs="*", choices=stacks, help="Only stacks and cut networks: these, or all.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, float | str] = {"device": machine(options.device)}
    # both sizes
    cases = list(CASES)
    if options.only is not None or options.stacks is not None:
        cases = options.only or []
    for case in cases:
        size, name = CASES[case]
        data = DATA[name](root=options.root, batch_size=BATCH)
        data.prepare_data()
        data.setup("fit")
        rounds = 3 * options.rounds if size == "compact" else options.rounds
        figures |= measure(case, data, rounds, options.device)
    # stacks
    if options.stacks is not None or (options.only is None and options.device == "cpu"):
        torch.set_num_threads(1)
        figures["device_of_stacks"] = machine()
        for name in options.stacks or stacks:
            figures |= over_end_to_end.measure(name, options.rounds)
    conclude(figures, [*BOUNDS, *over_end_to_end.bounds()])


if __name__ == "__main__":
    main()
