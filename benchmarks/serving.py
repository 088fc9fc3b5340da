"""How fast a network answers once it is exported, how much smaller it gets, and what early exit saves.

    python benchmarks/serving.py [--runs RUN ...] [--rounds N] [--threads N] [--no-compiled]

Without runs, networks with random weights: ``compact`` for MNIST and for CIFAR-10, and a deep stack. All on random
pixels, in one process, sides in turns:

- eager: the model as `predict` runs it; all: with every capsule and its classifier computed;
- compiled, torch: by ``torch.compile``, and the exported program of ``torch.export``;
- onnx, onnx_int8: by onnxruntime, as exported, and quantised by onnxruntime (weights and activations of 8 bits, ranges
  from 64 random images), with its largest difference of a logit;
- exits, onnx_exits: with early exit at thresholds by which half of the images leave at the first exit.

``..._over_onnx`` is the time of the eager network over onnxruntime's; for ``compact`` MNIST at batch 1 at least 3 is
wanted. The last line is one JSON object; the command fails past a bound. It needs the extra ``export``.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import Bound, conclude, in_turns, machine, ratio, spread
from torch import Tensor

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.datamodules.description import complete_description
from primenet_lightning.serving import EarlyExit, OnnxClassifier, export
from primenet_lightning.serving.exporting import eager
from primenet_lightning.serving.programs import random_pixels
from primenet_lightning.serving.runner import session_of
from primenet_lightning.training.learner import LocalLearner

BATCHES = (1, 32)
BOUNDS = [Bound("compact_mnist_eager_over_onnx_batch1", "at least", 3.0)]
Answer = Callable[[Tensor], object]


def made_up() -> dict[str, LocalLearner]:
    """Networks with random weights, by name."""
    torch.manual_seed(0)
    models: dict[str, LocalLearner] = {
        "compact_mnist": PrimeNet(1, (28, 28)),
        "compact_cifar10": PrimeNet(3, (32, 32)),
        "stack_cifar10": PrimeNet(3, (32, 32), depth=3, stride=1, local_classifier="pooled"),
    }
    for model in models.values():
        model.data_description = complete_description({"mean": 0.5, "std": 0.25}, model.in_shape, 10)
    return models


def quantised(path: Path, folder: Path, pixels: Tensor) -> Path:
    """Quantise an ONNX file by onnxruntime: weights and activations of 8 bits.

    Args:
        path: Of the file.
        folder: Where to write.
        pixels: From which ranges are found, uint8 ``(batch, channels, height, width)``.

    Returns:
        The new file.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(torch.split(pixels, 16))

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch.numpy()}

    prepared, quantised = folder / "prepared.onnx", folder / "int8.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(quantised), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return quantised


def every_capsule(model: PrimeNet) -> Answer:
    """Compute every capsule and its classifier, as a choice by looking at them needs."""

    def answer(images: Tensor) -> list[Tensor]:
        verdicts: list[Tensor] = []
        for block, choice in zip(model.network.prime_blocks, model.network.inference_route(), strict=True):
            maps: list[Tensor] = []
            for capsule in block.in_order:
                feature_map, logits = capsule(images)
                maps.append(feature_map)
                verdicts.append(logits)
            images = block.join(images, block.router.select(images, maps, choice))
        return [model.network.head(images), *verdicts]

    return answer


def half_leave(model: LocalLearner, images: Tensor) -> EarlyExit | None:
    """Exits at thresholds by which half of some images leave at the first; None where there are none."""
    try:
        early = EarlyExit(model, 2.0)
    except ValueError:
        return None
    _, logits = early.exits.advance(0, (images,))
    early.thresholds[0] = float(logits.softmax(1).amax(1).median())
    return early


def measure(name: str, model: LocalLearner, rounds: int, threads: int, compiled: bool) -> dict[str, float]:
    """Export a network, time it in all ways, and print its table.

    Returns:
        Figures by name, each beginning with the network's.
    """
    figures: dict[str, float] = {}
    model.eval()
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = Path(place)
        # what is exported
        with torch.inference_mode(False):
            torch_file = export(model, folder / "a.pt2", "torch")
            onnx_file = export(model, folder / "a.onnx", "onnx")
            half_file = export(model, folder / "half.onnx", "onnx", dtype="float16")
            program = torch.export.load(torch_file.path).module()
            calibration = random_pixels(torch_file.metadata, 64)
            int8_file = quantised(onnx_file.path, folder, calibration)
        plain = eager(model, torch_file.metadata)
        early = half_leave(model, plain.normalised(calibration))
        # how exact it is
        expected = plain(calibration)
        int8 = session_of(int8_file, threads)
        difference = torch.from_numpy(int8.run(None, {"pixels": calibration.numpy()})[0]) - expected
        figures["onnx_int8_error"] = float(difference.abs().max() / expected.abs().max())
        figures |= {"torch_error": torch_file.error, "onnx_error": onnx_file.error, "onnx_half_error": half_file.error}
        # all ways to answer
        answers: dict[str, Answer] = {"eager": plain, "torch": program}
        if isinstance(model, PrimeNet):
            every = every_capsule(model)
            answers["all"] = lambda pixels: every(plain.normalised(pixels))
        if compiled:
            answers["compiled"] = torch.compile(plain, dynamic=False)
        classifier = OnnxClassifier(onnx_file.path, threads)
        answers["onnx"] = lambda pixels: classifier.logits(pixels.numpy())
        answers["onnx_int8"] = lambda pixels: int8.run(None, {"pixels": pixels.numpy()})
        if early is not None:
            with torch.inference_mode(False):
                parts = OnnxClassifier(early.export(folder / "parts"), threads)
            answers["exits"] = lambda pixels: early.classify(plain.normalised(pixels))
            answers["onnx_exits"] = lambda pixels: parts.classify(pixels.numpy())
            spent = early.classify(plain.normalised(calibration)).multiply_adds / len(calibration)
            figures["exits_share_of_multiply_adds"] = spent / early.full_cost
        # how long they take
        print(f"\n{name}; weights {onnx_file.weight_bytes / 1e6:.2f} MB, in float16 {half_file.weight_bytes / 1e6:.2f}")
        for batch in BATCHES:
            pixels = random_pixels(torch_file.metadata, batch)
            times = in_turns({way: partial(answer, pixels) for way, answer in answers.items()}, rounds)
            figures |= table(batch, times)
    for figure in ("torch_error", "onnx_error", "onnx_half_error", "onnx_int8_error", "exits_share_of_multiply_adds"):
        if figure in figures:
            print(f"{figure:>32} {figures[figure]:.2g}")
    return {f"{name}_{figure}": value for figure, value in figures.items()}


def table(batch: int, times: Mapping[str, list[float]]) -> dict[str, float]:
    """Print the table of one batch size.

    Args:
        batch: Images a batch.
        times: Seconds a batch by way.

    Returns:
        Figures by name.
    """
    figures: dict[str, float] = {}
    print(f"{f'batch {batch}':>18} {'latency, ms':<28} eager over it")
    for way, seconds in times.items():
        low, middle, high = spread([1000 * second for second in seconds])
        faster = ratio(times["eager"], seconds)
        figures[f"{way}_batch{batch}_ms"] = middle
        figures[f"eager_over_{way}_batch{batch}"] = faster.median
        print(f"{way:>18} {f'{middle:.3f} ({low:.3f} to {high:.3f})':<28} {faster}")
    return figures


def main() -> None:
    """Measure, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="*", default=[], help="Run folders or checkpoints to measure, too.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = made_up()
    for run in options.runs:
        models[Path(run).name] = load_model(run)
    figures: dict[str, float | str] = {"device": machine()}
    for name, model in models.items():
        figures |= measure(name, model, options.rounds, options.threads, options.compiled)
    conclude(figures, BOUNDS)


if __name__ == "__main__":
    main()
