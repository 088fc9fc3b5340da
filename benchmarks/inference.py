"""How fast a network answers: only the routed capsule, all capsules, and ResNet-20 and -50 beside them.

    python benchmarks/inference.py [--only NAME ...] [--batches N ...] [--no-compiled] [--rounds N] [--threads N]

Random images and weights, sides in turns:

- k3, k5, k7: label-free with that capsule routed, as `PrimeNet` predicts;
- all: every capsule with its classifier, as any choice by looking at them needs, and then one map goes on;
- min_entropy: the same, each sample with its surest capsule (``inference_routing="min_entropy"``);
- resnet20, resnet50 (torchvision's): beside images of 32x32x3;
- compiled_...: k5, all and resnet20 by ``torch.compile``, on ``compact_cifar10``; compiling takes minutes, untimed.

``saving_...`` is the time of all over the time of one routed, ``of_multiply_adds_...`` the same over the ratio of their
multiply-adds as run; that one is to be 0.85 at least. Latency is the time of a batch. The last line is one JSON object;
the command fails past a bound.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from references import ResNet20
from timing import Bound, conclude, in_turns, machine, ratio, spread
from torch import Tensor
from torchvision.models import resnet50

from primenet_lightning import PrimeNetwork, architecture
from primenet_lightning.analysis.cost import count_inference
from primenet_lightning.nn.prime.architecture import Size

CASES: dict[str, tuple[Size, tuple[int, int, int]]] = {
    "compact_mnist": ("compact", (1, 28, 28)),
    "compact_cifar10": ("compact", (3, 32, 32)),
    "paper_cifar10": ("paper", (3, 32, 32)),
}
COMPILED = "compact_cifar10"
BATCHES = (1, 32, 1024)
ROUTES = {"k3": (0,), "k5": (1,), "k7": (2,)}
Answer = Callable[[Tensor], object]
BOUNDS = [
    Bound(f"{case}_of_multiply_adds_{route}_batch{batch}", "at least", 0.85)
    for case in CASES
    for route in ROUTES
    for batch in BATCHES
]


def answers_of(network: PrimeNetwork) -> dict[str, Answer]:
    """All ways to answer, by name."""

    def routed(route: tuple[int, ...]) -> Answer:
        return lambda images: network(images, route)

    def every_capsule(images: Tensor) -> list[Tensor]:
        (block,) = network.prime_blocks
        assert block.projection is not None
        maps: list[Tensor] = []
        logits: list[Tensor] = []
        for capsule in block.in_order:
            feature_map, verdict = capsule(images)
            maps.append(feature_map)
            logits.append(verdict)
        # all are handed back, or a compiler would leave out what nobody uses
        return [network.head(torch.cat([maps[0], block.projection(images)], 1)), *maps, *logits]

    return {**{name: routed(route) for name, route in ROUTES.items()}, "all": every_capsule, "min_entropy": network}


def measure(case: str, batches: list[int], rounds: int, compiled: bool) -> dict[str, float]:
    """Time a case and print its table.

    Returns:
        Figures by name, each beginning with the case's.
    """
    size, shape = CASES[case]
    # all that answers
    torch.manual_seed(0)
    network = PrimeNetwork.build(
        shape[0], shape[1:], 10, architecture(size, shape[1:]), inference_routing="min_entropy"
    ).eval()
    answers = answers_of(network)
    if shape[0] == 3:
        answers["resnet20"] = ResNet20().eval()
        answers["resnet50"] = resnet50(num_classes=10).eval()
    if compiled and case == COMPILED:
        for name in ("k5", "all", "resnet20"):
            answers[f"compiled_{name}"] = torch.compile(answers[name], dynamic=False)
    # what they cost
    every = count_inference(network, as_run=True)
    print(f"\n{case}; multiply-adds as run, M: all {every / 1e6:.2f}", end="")
    savings: dict[str, float] = {}
    for name, route in ROUTES.items():
        cost = count_inference(network, route, as_run=True)
        savings[name] = every / cost
        print(f", {name} {cost / 1e6:.2f}", end="")
    print()
    # how long they take
    figures: dict[str, float] = {}
    for batch in batches:
        images = torch.randn(batch, *shape)
        sides = {name: partial(answer, images) for name, answer in answers.items()}
        turns = rounds if batch < 1024 else max(rounds // 3, 3)
        with torch.inference_mode():
            times = in_turns(sides, turns)
        for name, figure in latencies(batch, times, savings).items():
            figures[f"{case}_{name}"] = figure
    return figures


def latencies(batch: int, times: dict[str, list[float]], savings: dict[str, float]) -> dict[str, float]:
    """Print the table of one batch size.

    Args:
        batch: Images a batch.
        times: Seconds a batch by side.
        savings: Multiply-adds of all capsules over those of one routed, by its name.

    Returns:
        Figures by name.
    """
    figures: dict[str, float] = {}
    print(f"{f'batch {batch}':>18} {'images/s':>10}  {'latency, ms':<30} {'all over it':<26} of multiply-adds")
    for name, seconds in times.items():
        low, middle, high = spread([1000 * second for second in seconds])
        figures[f"{name}_batch{batch}_images_per_second"] = 1000 * batch / middle
        figures[f"{name}_batch{batch}_ms"] = middle
        saving, share = ratio(times["all"], seconds), ""
        if name in savings:
            of_multiply_adds = saving.median / savings[name]
            figures[f"saving_{name}_batch{batch}"] = saving.median
            figures[f"of_multiply_adds_{name}_batch{batch}"] = of_multiply_adds
            share = f"{of_multiply_adds:.2f} of {savings[name]:.2f}"
        latency = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"{name:>18} {1000 * batch / middle:10.0f}  {latency:<30} {saving!s:<26} {share}")
    return figures


def main() -> None:
    """Measure, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=30, help="Rounds; a third of them for batches of 1024.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, float] = {}
    for case in options.only:
        figures |= measure(case, options.batches, options.rounds, options.compiled)
    conclude(figures | {"device": machine()}, BOUNDS)


if __name__ == "__main__":
    main()
