"""Trained networks in use elsewhere: exported to files that need no Lightning, and stopping early.

`export` writes a network as a `torch.export` program, an ONNX file, or safetensors; `EarlyExit` lets images leave as
soon as an exit is sure enough, and computes of those that have left no more; `OnnxClassifier` runs ONNX files by
onnxruntime and numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from primenet_lightning.serving.early_exit import EarlyAnswers, EarlyExit
    from primenet_lightning.serving.exporting import Exported, export
    from primenet_lightning.serving.runner import OnnxClassifier

__all__ = ["EarlyAnswers", "EarlyExit", "Exported", "OnnxClassifier", "export"]

_HOMES = {
    "EarlyAnswers": "early_exit",
    "EarlyExit": "early_exit",
    "Exported": "exporting",
    "OnnxClassifier": "runner",
    "export": "exporting",
}


def __getattr__(name: str) -> Any:
    """Import a name's module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
