"""A training step in a process that keeps the memory that it frees, over one that gives it back.

    python benchmarks/freed_memory.py [--rounds 5] [--steps 10]

Each side of each round is a process of its own, with one thread, since what glibc is told holds for a whole process.
Times are processor time of a step, in user and in kernel mode, so that other processes do not count; the peak is the
largest resident size of the process. The last line is one JSON object.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from timing import Bound, conclude, machine, ratio

CASES = {"compact_cifar10": ("compact", 200), "paper_cifar10": ("paper", 100)}
"""Size of the network, and images of a batch."""

SIDES = ("kept", "given_back")
BOUNDS = [Bound("paper_cifar10_given_back_over_kept", "at least", 1.2)]
WARM_UP = 3


class Measured(NamedTuple):
    """What a process came to.

    Attributes:
        seconds: Processor time of a step, median.
        mebibytes: Peak of the resident size.
    """

    seconds: float
    mebibytes: float


def train(case: str, side: str, steps: int) -> Measured:
    """Be a process that trains."""
    from primenet_lightning import PrimeNetwork, architecture, keep_freed_memory

    if side == "kept" and not keep_freed_memory():
        sys.exit("this system does not let a process keep its memory")
    import torch
    from training import local

    # the network and a batch
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size, batch = CASES[case]
    step = local(PrimeNetwork.build(3, (32, 32), 10, architecture(size, (32, 32))))  # type: ignore[arg-type]
    images, target = torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    # steps
    times: list[float] = []
    for _ in range(WARM_UP + steps):
        start = time.process_time()
        step(images, target)
        times.append(time.process_time() - start)
    return Measured(statistics.median(times[WARM_UP:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(case: str, rounds: int, steps: int) -> dict[str, float | str]:
    """Let both sides train in turns, and print what came of it."""
    measured: dict[str, list[Measured]] = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in SIDES if turn % 2 else reversed(SIDES):
            command = [sys.executable, __file__, "--steps", str(steps), "--process", case, side]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            measured[side].append(Measured(*json.loads(answer.splitlines()[-1])))
    kept, given_back = measured["kept"], measured["given_back"]
    times = ratio([one.seconds for one in given_back], [one.seconds for one in kept])
    peaks = ratio([one.mebibytes for one in kept], [one.mebibytes for one in given_back])
    print(f"{case}: time given back over kept {times}; peak kept over given back {peaks}", flush=True)
    return {
        f"{case}_given_back_over_kept": times.median,
        f"{case}_kept_ms": 1000 * statistics.median(one.seconds for one in kept),
        f"{case}_peak_kept_over_given_back": peaks.median,
    }


def main() -> None:
    """Measure all cases and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--process", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        case, side = options.process
        print(json.dumps(train(case, side, options.steps)))
        return
    figures: dict[str, float | str] = {}
    for case in CASES:
        figures |= measure(case, options.rounds, options.steps)
    conclude(figures | {"device": machine("cpu")}, BOUNDS)


if __name__ == "__main__":
    main()
