"""Damage files at random, and see whether the package answers wrongly, or with a traceback.

    python benchmarks/faults.py [--damages 500] [--seed 0] [--only WORDS]
    python benchmarks/faults.py --machine [--seed 0] [--only WORDS]

A small run is trained and one file of each kind is written. Each damage goes to one of these files: a bit, up to 16
bytes, a digit, a line taken out, a zeroed or a swapped block, a file cut short or made longer. Then the file is read
as the package reads it. It has to be refused in a sentence, or to be mentioned in a warning where users may edit it,
or to answer as before. The last line is one JSON object; the command fails if one damage was answered wrongly in
silence, or with a traceback. With ``--machine`` runs are struck by faults of the machine instead: see
`machine_faults`.
"""

import argparse
import collections
import logging
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import machine_faults
import torch
from damaged_files import DAMAGES, OUTCOMES, Damage, Reading, make_files, try_damage
from timing import Bound, conclude, machine

BOUNDS = [Bound("wrong", "at most", 0.0), Bound("traceback", "at most", 0.0)]
TESTS = Path(__file__).parents[1] / "tests"


def damages(folder: Path, count: int, seed: int, only: str = "", quick: bool = False) -> list[Damage]:
    """Try so many damages, spread evenly over kinds of files.

    Args:
        folder: An empty one.
        count: How many.
        seed: Of all that is random.
        only: Kinds of files with this in their names.
        quick: Whether readings that take long are left out.

    Returns:
        What came of each.
    """
    readings: list[Reading] = []
    for reading in make_files(folder, TESTS / "data"):
        if only in reading.kind and not (quick and reading.takes_long):
            readings.append(reading)
    moments, tried = random.Random(seed), list[Damage]()
    expected = [reading.read() for reading in readings]
    while len(tried) < count:
        place = len(tried) % len(readings)
        how = moments.choice(DAMAGES)
        damage = try_damage(readings[place], expected[place], how, moments)
        if damage is not None:
            tried.append(damage)
            if damage.outcome in ("wrong", "traceback"):
                print(f"{damage.outcome}: {damage.kind}, {damage.how}: {damage.words}", flush=True)
    return tried


def table(tried: Sequence[Damage]) -> str:
    """Count the outcomes by kind of file."""
    counts = collections.Counter((damage.kind, damage.outcome) for damage in tried)
    lines = [f"{'':40}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES)]
    for kind in dict.fromkeys(damage.kind for damage in tried):
        lines.append(f"{kind:40}" + "".join(f"{counts[kind, outcome]:11}" for outcome in OUTCOMES))
    return "\n".join(lines)


def strike_runs(only: str, seed: int) -> None:
    """Let the machine's faults strike runs, and report."""
    outcomes = machine_faults.machine_faults(only, seed)
    print(machine_faults.table(outcomes))
    wrong = sum(bool(outcome.wrong) for outcome in outcomes)
    figures: dict[str, float | str] = {"faults": len(outcomes), "wrong": wrong, "seed": seed, "device": machine("cpu")}
    conclude(figures, BOUNDS)


def main() -> None:
    """Do it in a temporary folder and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Kinds of files, or faults, with this in their names.")
    parser.add_argument("--machine", action="store_true", help="Faults of the machine, not of files.")
    options = parser.parse_args()
    if options.machine:
        strike_runs(options.only, options.seed)
        return
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        tried = damages(Path(folder), options.damages, options.seed, options.only)
    print(table(tried))
    counts = collections.Counter(damage.outcome for damage in tried)
    figures: dict[str, float | str] = {"damages": len(tried), **{outcome: counts[outcome] for outcome in OUTCOMES}}
    conclude(figures | {"seed": options.seed, "device": machine("cpu")}, BOUNDS)


if __name__ == "__main__":
    main()
