"""Trained networks in use elsewhere: exported to files that need no Lightning, and stopping early.

`export` writes a network as a `torch.export` program, an ONNX file, or safetensors; `EarlyExit` lets images leave as
soon as an exit is sure enough, and computes of those that have left no more; `OnnxClassifier` runs ONNX files by
onnxruntime and numpy alone.
"""

from typing import TYPE_CHECKING

from primenet_lightning.first_use import on_first_use

if TYPE_CHECKING:
    from primenet_lightning.serving.early_exit import EarlyAnswers, EarlyExit
    from primenet_lightning.serving.exporting import Exported, export
    from primenet_lightning.serving.runner import OnnxClassifier

__all__ = ["EarlyAnswers", "EarlyExit", "Exported", "OnnxClassifier", "export"]

_HOMES = {
    "EarlyAnswers": "serving.early_exit",
    "EarlyExit": "serving.early_exit",
    "Exported": "serving.exporting",
    "OnnxClassifier": "serving.runner",
    "export": "serving.exporting",
}


__getattr__ = on_first_use(__name__, _HOMES)
