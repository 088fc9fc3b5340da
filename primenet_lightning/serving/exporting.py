"""Export of a trained network to a file that another program runs."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.datamodules.description import FIELDS
from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.serving import programs
from primenet_lightning.serving.metadata import metadata_of
from primenet_lightning.serving.networks import FromPixels, final, predicting_module
from primenet_lightning.training.learner import LocalLearner

Format = Literal["torch", "onnx", "safetensors"]
Dtype = Literal["float32", "float16", "bfloat16"]

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ""}
"""What names of files end with; safetensors lie in a folder, beside what describes them."""

TOLERANCES = {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.1}
"""How far from the eager network's answers an exported one may be, in units of the largest logit, or of 1."""


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: The file or folder.
        weight_bytes: Of weights in it.
        error: Largest difference of a logit from the eager network's in float32, in units of the largest logit, or of
            a probability from the eager one; on random images.
        metadata: What the file says of itself.
    """

    path: Path
    weight_bytes: int
    error: float
    metadata: dict[str, Any]


def export(
    model: LocalLearner | str | Path,
    path: str | Path,
    format: Format = "onnx",
    dtype: Dtype = "float32",
    probabilities: bool = False,
    description: Mapping[str, Any] | None = None,
) -> Exported:
    """Write the network as it predicts, and nothing else, for use without Lightning, or without this package.

    Of a routed block only the routed capsule is written, and no local classifier. The normalisation is inside: it takes
    pixels from 0 to 255, uint8 ``(batch, channels, height, width)`` of any batch, and of the size in its metadata. It
    gives logits, float32 ``(batch, classes)``, unless asked for probabilities. What was written is run, and compared
    with the model, before it is put in its place.

    Args:
        model: A trained model; or a checkpoint, or the folder of a run, whose best one is taken.
        path: Where to write: a file, for safetensors a folder. Must not be there yet.
        format: ``"torch"``: a program of `torch.export`, ``torch.export.load(path).module()`` runs it. ``"onnx"``: for
            onnxruntime, see `OnnxClassifier`. ``"safetensors"``: weights and JSON, see `PrimeNet.from_pretrained`.
        dtype: Of the weights, and of what is computed.
        probabilities: Whether a softmax ends it.
        description: What the model does not know of its data; see `primenet_lightning.analysis.prediction.load_model`.

    Returns:
        What was written.

    Raises:
        FileExistsError: If there is something already.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the network cannot be exported so, or a library is missing.

    Example:
        >>> exported = export("runs/mnist", "mnist.onnx")  # doctest: +SKIP
        >>> from primenet_lightning.serving import OnnxClassifier  # doctest: +SKIP
        >>> OnnxClassifier("mnist.onnx").logits(pixels)  # doctest: +SKIP
    """
    _refuse(format, dtype, probabilities)
    place = free(path)
    programs.refuse_missing(format)
    if not isinstance(model, LocalLearner):
        model = load_model(model, description)
    metadata = metadata_of(model, "probabilities" if probabilities else "logits", dtype, description)
    if format == "safetensors":
        return _save(model, place, dtype, metadata)
    module = predicting_module(model).to(getattr(torch, dtype))
    network = FromPixels(module, metadata["mean"], metadata["std"], probabilities).eval()
    reference = eager(model, metadata)

    def answer(pixels: Tensor) -> Tensor:
        logits: Tensor = reference(pixels)
        return logits.softmax(1) if probabilities else logits

    write = programs.write_torch if format == "torch" else programs.write_onnx
    weight_bytes, error = write(network, place, metadata, answer, TOLERANCES[dtype])
    return Exported(place, weight_bytes, error, metadata)


def free(path: str | Path) -> Path:
    """Refuse a place where something is.

    Args:
        path: Of a file or folder.

    Returns:
        The same.

    Raises:
        FileExistsError: If it is there.
    """
    place = Path(path).expanduser()
    if place.exists():
        raise FileExistsError(f"out={path} exists already and is not overwritten; give another name")
    return place


def eager(model: LocalLearner, metadata: Mapping[str, Any]) -> FromPixels:
    """Give the model itself, as it predicts in float32, to compare with.

    Args:
        model: A trained model.
        metadata: From `metadata_of`.

    Returns:
        From pixels to logits.
    """
    copied = copy.deepcopy(final(model)).cpu().float().eval()
    return FromPixels(copied, metadata["mean"], metadata["std"]).eval()


def _refuse(format: str, dtype: str, probabilities: bool) -> None:
    for name, value, choices in (("format", format, get_args(Format)), ("dtype", dtype, get_args(Dtype))):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")
    if format == "onnx" and dtype == "bfloat16":
        raise ValueError("dtype='bfloat16' is not computed by onnxruntime on CPUs; use 'float16' or 'float32'")
    if format == "safetensors" and probabilities:
        raise ValueError("probabilities=True means nothing for format='safetensors', which holds weights; leave it out")


def _save(model: LocalLearner, place: Path, dtype: Dtype, metadata: dict[str, Any]) -> Exported:
    """Write safetensors, and read them again."""
    model = final(model)
    if not isinstance(model, Pretrained):
        raise ValueError(f"a {type(model).__name__} has no from_pretrained; use format='torch' or 'onnx'")
    copied = copy.deepcopy(model).cpu().to(getattr(torch, dtype))
    copied.data_description = {name: metadata[name] for name in metadata if name in FIELDS}
    copied.save_pretrained(place)
    again = type(copied).from_pretrained(place)
    weight_bytes = programs.bytes_of(again.network)
    error = programs.checked(
        FromPixels(again, metadata["mean"], metadata["std"]), eager(model, metadata), metadata, TOLERANCES[dtype]
    )
    return Exported(place, weight_bytes, error, metadata)
