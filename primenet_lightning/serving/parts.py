"""A network with exits as one ONNX file a part, and what runs them without this package."""

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from primenet_lightning.files import write_whole
from primenet_lightning.models.pretrained_config import FORMAT
from primenet_lightning.nn.exits.network import ExitNetwork, answers
from primenet_lightning.nn.exits.thresholds import LEAVES, STAYS
from primenet_lightning.nn.predicting import predicting
from primenet_lightning.serving import runner
from primenet_lightning.serving.exporting import TOLERANCES, free
from primenet_lightning.serving.metadata import metadata_of
from primenet_lightning.serving.networks import FromPixels, fold_convolutions
from primenet_lightning.serving.programs import checked, random_pixels, refuse_missing, save_onnx

if TYPE_CHECKING:
    from primenet_lightning.serving.early_exit import EarlyExit

RUN = "run.py"
"""The runner, beside the parts."""


class Part(nn.Module):
    """What lies between an exit and the next, with that exit's classifier.

    Args:
        exits: Of the network.
        index: Of the exit that ends it.
        pixels: From pixels to normalised images, for the first part.
    """

    takes_tuple = True

    def __init__(self, exits: nn.Module, index: int, pixels: FromPixels | None) -> None:
        super().__init__()
        self.exits = exits
        self.index = index
        self.pixels = pixels

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        """Go on to the exit.

        Args:
            *state: From the part before, ``(batch, ...)`` each; of the first, pixels.

        Returns:
            The state, ``(batch, ...)`` each, but at the last exit, and the logits, float32 ``(batch, classes)``.
        """
        network: Any = self.exits
        if self.pixels is not None:
            state = (self.pixels.normalised(state[0]),)
        after, logits = network.advance(self.index, state)
        if self.index == network.num_exits - 1:
            after = ()
        return (*after, logits.float())


def export_parts(early: "EarlyExit", folder: str | Path, dtype: str = "float32") -> Path:
    """Write the parts, their thresholds and costs, and the runner.

    Args:
        early: The network, its exits and thresholds.
        folder: Where to write; must not be there yet.
        dtype: ``"float32"`` or ``"float16"``.

    Returns:
        The folder.

    Raises:
        FileExistsError: If it is there.
        ValueError: If a part cannot be exported, or a library is missing.
    """
    from primenet_lightning.serving.early_exit import exits_of, module_of

    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype={dtype!r} is unknown to ONNX parts; use 'float32' or 'float16'")
    place = free(folder)
    refuse_missing("onnx")
    metadata = metadata_of(early.model, "logits", dtype)
    copied = predicting(early.model.network, keep_classifiers=True).cpu()
    exits = module_of(exits_of(early.model, copied.float(), early.at))
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as draft:
        inner = Path(draft, "parts")
        _write(exits, inner, dtype, metadata, early)
        _check(inner, exits_of(early.model, copied, early.at), metadata, TOLERANCES[dtype])
        inner.replace(place)
    return place


def _write(exits: nn.Module, folder: Path, dtype: str, metadata: Mapping[str, Any], early: "EarlyExit") -> None:
    folder.mkdir()
    lower = fold_convolutions(copy_of(exits)).to(getattr(torch, dtype))
    pixels = FromPixels(lower, metadata["mean"], metadata["std"]).eval()
    state: tuple[Tensor, ...] = (random_pixels(metadata, 2),)
    names = ["pixels"]
    files: list[str] = []
    count = len(early.costs)
    for index in range(count):
        part = Part(lower, index, pixels if index == 0 else None).eval()
        with torch.no_grad():
            *after, _ = part(*state)
        given = [f"state{index}_{place}" for place in range(len(after))]
        files.append(f"part{index}.onnx")
        described = {**metadata, "part": index, "parts": count}
        save_onnx(part, state, folder / files[-1], described, names, [*given, "logits"])
        state, names = tuple(after), given
    finite = [min(max(threshold, 0.0), 2.0) for threshold in early.thresholds]  # JSON knows no infinity
    described = {"format": FORMAT, "parts": files, "thresholds": finite, "costs": early.costs}
    write_whole(folder / runner.EXITS, json.dumps(described | {"full_cost": early.full_cost}, indent=2) + "\n")
    shutil.copyfile(runner.__file__, folder / RUN)


def copy_of(exits: nn.Module) -> nn.Module:
    """Copy exits, to be changed.

    Args:
        exits: Of a network.

    Returns:
        A copy, in evaluation mode.
    """
    return copy.deepcopy(exits).eval()


def _check(folder: Path, exits: ExitNetwork, metadata: Mapping[str, Any], tolerance: float) -> None:
    """Compare the answers at each exit with the eager network's."""
    classifier = runner.OnnxClassifier(folder)
    reference = FromPixels(nn.Identity(), metadata["mean"], metadata["std"])
    for index in range(exits.num_exits):
        classifier.thresholds = [*[STAYS] * index, LEAVES, *[LEAVES] * (exits.num_exits - index - 1)]

        def answer(pixels: Tensor) -> Tensor:
            return torch.from_numpy(classifier.logits(np.ascontiguousarray(pixels.numpy())))

        def expected(pixels: Tensor, index: int = index) -> Tensor:
            return list(answers(exits, reference.normalised(pixels)))[index]

        checked(answer, expected, metadata, tolerance)
