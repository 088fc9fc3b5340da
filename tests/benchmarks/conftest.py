"""The benchmarks are scripts that import each other by their bare names, as Python does for the folder of a script."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
