"""The programs, imported from their files."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, undrawn: None) -> Callable[[str], Any]:
    """``example("own_dataset")`` is that program as a module, run in an empty folder; no figures are drawn.

    The Trainer that it makes stays there as ``module.trainer``.
    """
    monkeypatch.chdir(tmp_path)

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)

        def remembered(**options: Any) -> Trainer:
            module.trainer = trainer = Trainer(**options, accelerator="cpu")
            return trainer

        if hasattr(module, "Trainer"):
            monkeypatch.setattr(module, "Trainer", remembered)
        return module

    return load
