"""Which part of the package may import which; the contracts are in pyproject.toml."""

import json
import subprocess
import sys
from pathlib import Path

import importlinter.api  # noqa: F401  sets up what the next line needs
from importlinter.application.use_cases import lint_imports

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    passed = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert passed, capsys.readouterr().out


def test_contracts_see_the_two_linked_folders(monkeypatch):
    import grimp

    modules = grimp.build_graph("primenet_lightning", cache_dir=None).modules
    for folder in ("callbacks", "datamodules"):
        files = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert {f"primenet_lightning.{folder}.{name}" for name in files} <= modules


IMPORTS = """
import json, pkgutil, sys
from importlib import import_module
import primenet_lightning.nn as nn
names = [module.name for module in pkgutil.walk_packages(nn.__path__, "primenet_lightning.nn.")]
for name in names:
    import_module(name)
packages = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([names, sorted(packages)]))
"""


def test_networks_load_neither_lightning_nor_torchmetrics():
    ended = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=ROOT)
    names, packages = json.loads(ended.stdout)
    assert "primenet_lightning.nn.prime.network" in names
    assert "torch" in packages
    assert {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}.isdisjoint(packages)
