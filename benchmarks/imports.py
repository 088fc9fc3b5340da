"""Seconds that importing takes: the package and its parts, over Lightning and torch.

    python benchmarks/imports.py [--rounds N]

Each import happens in a fresh interpreter, whose own start is counted, in turns with the others. `import
primenet_lightning` alone loads nothing but itself, so that what counts for a training script stands beside it: the
module, the callbacks and the data, over the Lightning that they need; and `PrimeBlock`, over torch. Medians and
quartiles; the last line is one JSON object, and the command fails if a ratio is past its bound.
"""

import argparse
import os
import subprocess
import sys
from functools import partial

from timing import Bound, conclude, in_turns, machine, ratio, spread

SIDES = {
    "python": "pass",
    "torch": "import torch",
    "lightning": "import lightning",
    "lightning_pytorch": "import lightning.pytorch",
    "package": "import primenet_lightning",
    "block": "from primenet_lightning import PrimeBlock",
    "module": "from primenet_lightning import PrimeNet",
    "training": "import primenet_lightning.callbacks, primenet_lightning.datamodules; "
    "from primenet_lightning import PrimeNet",
}
RATIOS = [
    ("package", "lightning"),
    ("module", "lightning"),
    ("module", "lightning_pytorch"),
    ("training", "lightning"),
    ("block", "torch"),
]
BOUNDS = [Bound(f"{over}_over_{under}", "at most", 1.1) for over, under in RATIOS]


def run(statement: str) -> None:
    """Run a statement in a fresh interpreter; compiled files are kept, as they are for a user."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)


def main() -> None:
    """Measure, print, and fail past a bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    times = in_turns({name: partial(run, statement) for name, statement in SIDES.items()}, parser.parse_args().rounds)
    print(machine())
    figures: dict[str, float] = {}
    for name, statement in SIDES.items():
        figures[f"{name}_seconds"] = spread(times[name]).median
        print(f"{spread(times[name])!s:28} s  {statement}")
    for over, under in RATIOS:
        quartiles = ratio(times[over], times[under])
        figures[f"{over}_over_{under}"] = quartiles.median
        print(f"{quartiles!s:28}    {over} over {under}")
    conclude(figures, BOUNDS)


if __name__ == "__main__":
    main()
