"""Classify pixels by ONNX files that primenet-lightning exported. It needs onnxruntime and numpy, and nothing else.

    python runner.py mnist.onnx digit.png          (Pillow reads the images)

As a module: ``OnnxClassifier("mnist.onnx").logits(pixels)``, of pixels from 0 to 255, uint8
``(batch, channels, height, width)``. A folder of parts is run part by part: images leave as soon as an exit is sure
enough, and of those that have left nothing more is computed.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
"""The newest format of files that this runs."""

EXITS = "exits.json"
"""What describes a folder of parts."""


class Answers(NamedTuple):
    """What images get.

    Attributes:
        logits: float32 ``(batch, classes)``; probabilities where the file gives these.
        exits: Index of the part whose exit answered, int64 ``(batch,)``.
        multiply_adds: Of all images together; 0 of a file without parts, which does not say.
    """

    logits: np.ndarray[Any, Any]
    exits: np.ndarray[Any, Any]
    multiply_adds: int


class OnnxClassifier:
    """Runs an exported ONNX file, or a folder of parts with exits.

    Args:
        path: Of the file, or the folder.
        threads: Of onnxruntime; None leaves it to that.

    Attributes:
        metadata: What the file says of itself: ``class_names``, ``image_size``, ``mean``, ....
        thresholds: One an exit: an image leaves where its largest probability reaches this. May be set.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not whole, not of primenet-lightning, or of a newer format.

    Example:
        >>> classifier = OnnxClassifier("mnist.onnx")  # doctest: +SKIP
        >>> classifier.classify(np.zeros((1, 1, 28, 28), np.uint8)).logits.shape  # doctest: +SKIP
        (1, 10)
    """

    def __init__(self, path: "str | Path", threads: "int | None" = None) -> None:
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give an ONNX file, or a folder of parts")
        folder = path if path.is_dir() else path.parent
        described: dict[str, Any] = {"parts": [path.name], "thresholds": [0.0], "costs": [0]}
        if path.is_dir():
            described = read_exits(path)
        self.sessions = [session_of(folder / name, threads) for name in described["parts"]]
        self.thresholds = list(described["thresholds"])
        self.costs = list(described["costs"])
        self.metadata = metadata_of(self.sessions[0], folder / described["parts"][0])
        for session, name in zip(self.sessions[1:], described["parts"][1:], strict=True):
            self._refuse_other(metadata_of(session, folder / name), folder / name)

    def _refuse_other(self, metadata: "dict[str, Any]", path: Path) -> None:
        for name in ("class_names", "image_size", "output"):
            if metadata.get(name) != self.metadata[name]:
                raise ValueError(f"{path} has another {name} than the parts before it; export all parts together")

    @property
    def class_names(self) -> "list[str]":
        """Names of the classes, in the order of the logits."""
        names: list[str] = self.metadata["class_names"]
        return names

    def logits(self, pixels: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Classify images.

        Args:
            pixels: From 0 to 255, uint8 ``(batch, channels, height, width)``.

        Returns:
            float32 ``(batch, classes)``; see `Answers`.
        """
        if len(self.sessions) > 1:
            return self.classify(pixels).logits
        self._refuse_pixels(pixels)
        answer: np.ndarray[Any, Any] = self.sessions[0].run(None, {"pixels": pixels})[0]
        return answer

    def classify(self, pixels: "np.ndarray[Any, Any]") -> Answers:
        """Classify images, and tell where they left.

        Args:
            pixels: From 0 to 255, uint8 ``(batch, channels, height, width)``.

        Returns:
            Logits, float32 ``(batch, classes)``, exits, and what they cost.

        Raises:
            ValueError: If the pixels have another type or shape, or there is not a threshold for each exit.
        """
        self._refuse_pixels(pixels)
        if len(self.thresholds) != len(self.sessions):
            raise ValueError(f"thresholds={self.thresholds} are not {len(self.sessions)}; give one an exit")
        state, rows = [pixels], np.arange(len(pixels))
        logits = np.zeros((len(pixels), len(self.class_names)), np.float32)
        exits = np.zeros(len(pixels), np.int64)
        spent = 0
        for index, session in enumerate(self.sessions):
            names = [each.name for each in session.get_inputs()]
            *given, answer = session.run(None, dict(zip(names, state, strict=True)))
            leaves = np.ones(len(rows), bool)
            if index < len(self.sessions) - 1:
                leaves = self._confidence(answer) >= self.thresholds[index]
            logits[rows[leaves]] = answer[leaves]
            exits[rows[leaves]] = index
            spent += int(leaves.sum()) * self.costs[index]
            rows, state = rows[~leaves], [part[~leaves] for part in given]
            if not len(rows):
                break
        return Answers(logits, exits, spent)

    def _refuse_pixels(self, pixels: "np.ndarray[Any, Any]") -> None:
        shape = (self.metadata["in_channels"], *self.metadata["image_size"])
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != shape:
            raise ValueError(
                f"pixels are {pixels.dtype} of shape {pixels.shape}; give uint8 from 0 to 255 of shape (batch, "
                f"{', '.join(map(str, shape))})"
            )

    def _confidence(self, answer: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """The largest probability of each image."""
        if self.metadata["output"] == "probabilities":
            largest: np.ndarray[Any, Any] = answer.max(1)
            return largest
        largest = softmax(answer).max(1)
        return largest


def softmax(logits: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Give probabilities.

    Args:
        logits: ``(batch, classes)``.

    Returns:
        ``(batch, classes)``, whose rows have the sum 1.

    Example:
        >>> softmax(np.zeros((1, 2)))
        array([[0.5, 0.5]])
    """
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: np.ndarray[Any, Any] = powers / powers.sum(1, keepdims=True)
    return probabilities


def session_of(path: "str | Path", threads: "int | None" = None) -> Any:
    """Load a file into onnxruntime; no code can be in it.

    Args:
        path: Of the file.
        threads: Of onnxruntime; None leaves it to that.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        ValueError: If onnxruntime is not installed, or the file is not whole.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("onnxruntime is not installed; install it: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of kinds of its own
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} is no whole ONNX file ({reason}); copy it again") from error


def metadata_of(session: Any, path: Path) -> "dict[str, Any]":
    """Read what a file says of itself.

    Args:
        session: From `session_of`.
        path: Of the file.

    Returns:
        Plain data by name.

    Raises:
        ValueError: If it is not of primenet-lightning, of a newer format, or its class names are not as many as logits.
    """
    texts = session.get_modelmeta().custom_metadata_map
    try:
        metadata = {name: json.loads(text) for name, text in texts.items()}
        newest, classes = metadata["format"], len(metadata["class_names"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} was not exported by primenet-lightning; export it again") from None
    _refuse_newer(newest, path)
    if session.get_outputs()[-1].shape[-1] != classes:
        raise ValueError(f"{path} names {classes} classes for another number of logits; export it again")
    return metadata


def read_exits(folder: Path) -> "dict[str, Any]":
    """Read what describes a folder of parts.

    Args:
        folder: The folder.

    Returns:
        ``parts``, ``thresholds`` and ``costs``, one an exit.

    Raises:
        ValueError: If it is not there, not whole, or of a newer format.
    """
    path = folder / EXITS
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parts, thresholds, costs = described["parts"], described["thresholds"], described["costs"]
        newest = described["format"]
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {EXITS}; give a folder of parts with exits, or an ONNX file") from None
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} does not describe parts with exits; export them again") from None
    _refuse_newer(newest, path)
    if not len(parts) == len(thresholds) == len(costs) > 0:
        raise ValueError(f"{path} has {len(parts)} parts, {len(thresholds)} thresholds and {len(costs)} costs")
    for name in parts:
        if Path(name).name != name:
            raise ValueError(f"{path} names the part {name!r}, which is not in the folder itself")
    return described


def _refuse_newer(saved: Any, path: Path) -> None:
    if not isinstance(saved, int) or saved > FORMAT:
        raise ValueError(
            f"{path} is of format {saved}, and this version reads up to {FORMAT}; install a newer primenet-lightning"
        )


def main() -> None:
    """Classify image files named on the command line, by the parts that lie beside this file."""
    from PIL import Image

    images = sys.argv[1:]
    if not images:
        sys.exit("usage: python run.py IMAGE [IMAGE ...]")
    classifier = OnnxClassifier(Path(__file__).parent)
    height, width = classifier.metadata["image_size"]
    mode = "L" if classifier.metadata["in_channels"] == 1 else "RGB"
    for path in images:
        pixels = np.asarray(Image.open(path).convert(mode).resize((width, height)))
        pixels = pixels[None, None] if mode == "L" else pixels.transpose(2, 0, 1)[None]
        answers = classifier.classify(np.ascontiguousarray(pixels))
        label = classifier.class_names[int(answers.logits[0].argmax())]
        print(f"{path}\t{label}\texit {answers.exits[0]}")


if __name__ == "__main__":
    main()
