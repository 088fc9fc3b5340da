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

import torch
from references import ResNet20
from timing import Bound, conclude, in_turns, machine, ratio, spread
from torch import Tensor, nn
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


def sides(network: PrimeNetwork) -> dict[str, Answer]:
    """All ways to answer, by name."""

    def routed(route: tuple[int, ...]) -> Answer:
        return lambda images: network(images, route)

    def every_capsule(images: Tensor) -> list[Tensor]:
        (block,) = network.prime_blocks
        assert block.projection is not None
        maps, logits = zip(*(capsule(images) for capsule in block.capsules.values()), strict=True)
        # all are handed back, or a compiler would leave out what nobody uses
        return [network.head(torch.cat([maps[0], block.projection(images)], 1)), *maps, *logits]

    return {**{name: routed(route) for name, route in ROUTES.items()}, "all": every_capsule, "min_entropy": network}


def measure(case: str, batches: list[int], rounds: int, compiled: bool) -> dict[str, float]:
    """Time a case and print its table.

    Returns:
        Figures by name, each beginning with the case's.
    """
    size, shape = CASES[case]
    torch.manual_seed(0)
    network = PrimeNetwork.build(
        shape[0], shape[1:], 10, architecture(size, shape[1:]), inference_routing="min_entropy"
    ).eval()
    answers: dict[str, Answer] = sides(network)
    every = count_inference(network, as_run=True)
    costs = {name: count_inference(network, route, as_run=True) for name, route in ROUTES.items()}
    if shape[0] == 3:
        nets: dict[str, nn.Module] = {"resnet20": ResNet20().eval(), "resnet50": resnet50(num_classes=10).eval()}
        answers |= nets
    if compiled and case == COMPILED:
        answers |= {
            f"compiled_{name}": torch.compile(answer, dynamic=False)
            for name, answer in answers.items()
            if name in ("k5", "all", "resnet20")
        }
    figures: dict[str, float] = {}
    print(f"\n{case}; multiply-adds as run, M: all {every / 1e6:.2f}, "
          + ", ".join(f"{name} {cost / 1e6:.2f}" for name, cost in costs.items()))  # fmt: skip
    for batch in batches:
        images = torch.randn(batch, *shape)
        with torch.inference_mode():
            times = in_turns(
                {name: lambda answer=answer: answer(images) for name, answer in answers.items()},  # type: ignore[misc]  # noqa: B023
                rounds if batch < 1024 else max(rounds // 3, 3),
            )
        print(f"{f'batch {batch}':>18} {'images/s':>10}  {'latency, ms':<30} {'all over it':<26} of multiply-adds")
        for name, seconds in times.items():
            low, middle, high = spread([1000 * second for second in seconds])
            figures[f"{case}_{name}_batch{batch}_images_per_second"] = 1000 * batch / middle
            figures[f"{case}_{name}_batch{batch}_ms"] = middle
            saving, share = ratio(times["all"], seconds), ""
            if name in costs:
                figures[f"{case}_saving_{name}_batch{batch}"] = saving.median
                share_saved = saving.median / (every / costs[name])
                figures[f"{case}_of_multiply_adds_{name}_batch{batch}"] = share_saved
                share = f"{share_saved:.2f} of {every / costs[name]:.2f}"
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
