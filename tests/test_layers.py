"""Which part of the package may import which; the contracts are in pyproject.toml."""

from pathlib import Path

import grimp
import importlinter.api  # noqa: F401  sets up what the next line needs
from importlinter.application.use_cases import lint_imports

ROOT = Path(__file__).parents[1]


def test_imports_go_down_floor_by_floor(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    passed = lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert passed, capsys.readouterr().out


def test_contracts_see_the_two_linked_folders():
    modules = grimp.build_graph("primenet_lightning", cache_dir=None).modules
    for folder in ("callbacks", "datamodules"):
        names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert {f"primenet_lightning.{folder}.{name}" for name in names} <= modules
