"""What is kept of a training, and the file that it is kept in."""

import json
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Phase:
    """A part of a training in which no capsule was pruned.

    Attributes:
        capsules: How many there were; 0 in an end-to-end network.
        batches: How many it took.
        multiply_adds: Of a training step, an image.
        cpu_seconds: Of this process, reading the batches included.
        wall_seconds: By the clock.
    """

    capsules: int
    multiply_adds: int
    batches: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class Fit:
    """What is kept of a training.

    Attributes:
        test_error: In percent; of the test split, seen once, after the training.
        validation_error: In percent.
        correct: Whether each test image was classified correctly, in order.
        parameters: At the end, capsules' classifiers included.
        multiply_adds_inference: Of a label-free forward of a blank image, at the end.
        multiply_adds_training: Of a training step, an image, averaged over the batches of the training.
        changed: By block, the share of the late training batches in which another capsule was routed than in the batch
            before; empty where blocks do not hand on one map a batch.
        phases: The parts of the training.
        diverged: What was not finite, where the training ended by that; it then counts as all wrong.
    """

    test_error: float
    validation_error: float
    correct: list[bool]
    parameters: int
    multiply_adds_inference: int
    multiply_adds_training: int
    changed: list[float]
    phases: list[Phase]
    diverged: str | None = None

    @property
    def cpu_seconds(self) -> float:
        """Of the training."""
        return sum(phase.cpu_seconds for phase in self.phases)

    @property
    def wall_seconds(self) -> float:
        """Of the training."""
        return sum(phase.wall_seconds for phase in self.phases)

    @property
    def changed_late(self) -> float | None:
        """Mean of ``changed`` over the blocks."""
        return statistics.mean(self.changed) if self.changed else None

    def to_json(self) -> dict[str, Any]:
        """Give plain values; thousands of verdicts become one word of ones and zeros."""
        return asdict(self) | {"correct": as_text(self.correct)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Fit":
        """Take them back."""
        correct = from_text(values["correct"])
        return cls(**{**values, "correct": correct, "phases": [Phase(**phase) for phase in values["phases"]]})


def as_text(verdicts: Sequence[bool]) -> str:
    """Write thousands of verdicts as one word of ones and zeros."""
    return "".join("01"[right] for right in verdicts)


def from_text(text: str) -> list[bool]:
    """Read them back."""
    return [letter == "1" for letter in text]


def key_of(options: Mapping[str, Any]) -> str:
    """Write options as one string, whatever their order."""
    return json.dumps(options, sort_keys=True)


class Training(Protocol):
    """A training to be done, of any kind of network."""

    def options(self) -> dict[str, Any]:
        """Give all that decides its result, as JSON has it."""

    def key(self) -> str:
        """What it is kept under."""

    def carry_out(self, root: str | None = None) -> Fit:
        """Train and test; ``root`` is the folder of the data."""


class Store:
    """Finished runs in a file, one JSON object a line; a run that is in it is not run again.

    A line is appended by one write, so that several processes may share a file, and one that is killed leaves at most
    a damaged line at its end, which is passed over with a warning.

    Args:
        path: The file; it and its folder are made where needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def results(self) -> dict[str, Fit]:
        """Read the file: what is kept, by `Run.key`."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        fits = {}
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                fits[key_of(entry["options"])] = Fit.from_json(entry["result"])
            except (ValueError, KeyError, TypeError):
                if line:
                    warnings.warn(
                        f"line {number} of {self.path} is damaged and left out; its run is due again", stacklevel=2
                    )
        return fits

    def add(self, run: Training, result: Fit) -> None:
        """Append a finished run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"options": run.options(), "result": result.to_json()}, sort_keys=True)
        # after a line without its end, the rest of somebody killed, a new one begins
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        text = f"{'' if whole else chr(10)}{line}\n".encode()
        descriptor = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            if os.write(descriptor, text) < len(text):
                raise OSError(f"{self.path} could not be written whole; is the disk full?")
        finally:
            os.close(descriptor)

    def carry_out(self, run: Training, root: str | None = None) -> Fit:
        """Give a run's result: what is kept, or else train and keep it.

        Args:
            run: The run.
            root: Folder of the data.
        """
        result = self.results().get(run.key())
        if result is None:
            result = run.carry_out(root)
            self.add(run, result)
        return result
