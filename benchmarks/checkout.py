"""Finds the package of this checkout where it is not installed; import it before the package."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("primenet_lightning") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
