"""What the benchmarks of errors share: whole trainings that are kept once they are done, and intervals of ratios."""

import argparse
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import AdamW

from primenet_lightning import PrimeNet, PrimeNetwork
from primenet_lightning.analysis.cost import count_cost, count_training
from primenet_lightning.callbacks import AveragedWeights
from primenet_lightning.commands.main import FALSE_ALARMS
from primenet_lightning.datamodules import Augment, ImageDataModule
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.mixing import Gate
from primenet_lightning.reproduction._workplace import DATA_MODULES
from primenet_lightning.training.fitting import fit_and_test, quiet_trainer

LATE = 1 / 3
"""Share of a training, its end, in which changes of the route count as late."""

Item = TypeVar("Item")


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


@dataclass(frozen=True)
class Run:
    """A training to be done: all that decides its result, which is what it is found again by.

    Attributes:
        data: Name of the data set.
        model: Arguments of `PrimeNet`, without optimizers, schedule and what the data decide.
        epochs: How many.
        seed: Of weights, of the splits and of their order.
        data_options: Further arguments of the data module.
        augmentation: Arguments of `Augment`; None changes nothing.
        learning_rate: Of AdamW, for all.
        weight_decay: Likewise.
        betas: Likewise.
        schedule: See `primenet_lightning.training.schedules`.
        averaging: Decay of `AveragedWeights`; None does not average.
        precision: Of the Trainer.
        accelerator: Likewise.
    """

    data: str
    model: Mapping[str, Any]
    epochs: int
    seed: int = 0
    data_options: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] | None = None
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str | None = "one_cycle"
    averaging: float | None = None
    precision: str = "32-true"
    accelerator: str = "cpu"

    def options(self) -> dict[str, Any]:
        """Give all of it as JSON has it."""
        options: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return options

    def key(self) -> str:
        """What it is kept under."""
        return key_of(self.options())

    def load(self, root: str | None) -> ImageDataModule:
        """Make the data module."""
        augmentation = None if self.augmentation is None else Augment(**self.augmentation)
        # small batches need no memory from the system each time, and are what a gate by batch has learned on
        options = {"batch_size": 100, "eval_batch_size": 100, **self.data_options}
        return DATA_MODULES[self.data](root=root, seed=self.seed, augmentation=augmentation, **options)

    def carry_out(self, root: str | None = None) -> Fit:
        """Train and test.

        Args:
            root: Folder of the data.
        """
        return fit(
            self.model,
            self.load(root),
            self.epochs,
            self.seed,
            self.learning_rate,
            self.weight_decay,
            self.betas,
            self.schedule,
            self.averaging,
            self.precision,
            self.accelerator,
        )


def fit(
    model_options: Mapping[str, Any],
    data: ImageDataModule,
    epochs: int,
    seed: int,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    schedule: str | None = "one_cycle",
    averaging: float | None = None,
    precision: str = "32-true",
    accelerator: str = "cpu",
) -> Fit:
    """Build a network, train it with AdamW, and test it once.

    Args:
        model_options: Of `PrimeNet`.
        data: Tells the rest.
        epochs: As `Run` has it, and so all that follow.
        seed: Of the weights and of what is random in training.
        learning_rate: Of capsules and head.
        weight_decay: Of both.
        betas: Of both.
        schedule: Over the whole training.
        averaging: Decay of averaged weights.
        precision: Of the Trainer.
        accelerator: Of the Trainer.

    Returns:
        What is kept of it.
    """
    seed_everything(seed, verbose=False)
    optimizer = partial(AdamW, lr=learning_rate, weight_decay=weight_decay, betas=betas)
    model = PrimeNet(
        data.in_channels,
        data.image_size,
        data.num_classes,
        capsule_optimizer=optimizer,
        head_optimizer=optimizer,
        schedule=schedule,
        # what would go on is all that is tested
        evaluate_capsules=False,
        **model_options,
    )
    callbacks: list[Callback] = [] if averaging is None else [AveragedWeights(averaging)]
    return train_and_test(model, data, epochs, callbacks, precision, accelerator)


def train_and_test(
    model: PrimeNet,
    data: ImageDataModule,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    precision: str = "32-true",
    accelerator: str = "cpu",
) -> Fit:
    """Train a model with its own optimizers, validate it at the end, and test it once.

    Args:
        model: Trained in place.
        data: To train on.
        epochs: How many.
        callbacks: Further ones.
        precision: Of the Trainer.
        accelerator: Of the Trainer.

    Returns:
        What is kept of it.
    """
    watch = Watch()
    trainer = quiet_trainer(
        epochs, [watch, *callbacks], accelerator=accelerator, precision=precision, check_val_every_n_epoch=epochs
    )
    cost, diverged = count_cost(model.network), None
    try:
        validation_error = fit_and_test(trainer, model, data).validation_error
        cost = count_cost(model.network)  # without what was pruned, and on the route that was found
    except NonFiniteError as error:
        diverged, validation_error = str(error), 100.0
        watch.correct = [False] * len(data.test_dataset)
    batches = sum(phase.batches for phase in watch.phases)
    return Fit(
        test_error=100 * (1 - statistics.mean(watch.correct)),
        validation_error=validation_error,
        correct=watch.correct,
        parameters=cost.parameters,
        multiply_adds_inference=cost.multiply_adds_inference,
        multiply_adds_training=round(
            sum(phase.multiply_adds * phase.batches for phase in watch.phases) / max(batches, 1)
        ),
        changed=changed_late(watch.routes) if hands_on_one(model.network) else [],
        phases=watch.phases,
        diverged=diverged,
    )


class Verdicts(Callback):
    """Notes what the test says.

    Attributes:
        correct: Whether each test image was classified correctly, in order.
    """

    def __init__(self) -> None:
        self.correct: list[bool] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare the verdicts with the labels."""
        self.correct += (outputs["logits"].argmax(1) == batch[1]).tolist()


class Watch(Verdicts):
    """Notes what a training took, where it routed, and what the test then said.

    Attributes:
        phases: One after each pruning, the last one under way.
        routes: Full names of the routed capsules, one tuple a training batch.
        correct: Whether each test image was classified correctly, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[Phase] = []
        self.routes: list[tuple[str, ...]] = []
        self._clocks = (0.0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the first phase."""
        assert isinstance(pl_module, PrimeNet)
        self._begin(pl_module.network)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the batch."""
        assert isinstance(pl_module, PrimeNet)
        clocks = (time.process_time(), time.perf_counter())
        cpu, wall = (now - before for now, before in zip(clocks, self._clocks, strict=True))
        # by name, since a pruning changes the indices of those that stay
        names = pl_module.network.capsule_names
        self.routes.append(tuple(block[index] for block, index in zip(names, outputs["route"], strict=True)))
        self._clocks = clocks
        if sum(map(len, names)) != self.phases[-1].capsules:
            self._begin(pl_module.network)  # this batch was the first without those pruned
        last = self.phases[-1]
        self.phases[-1] = replace(
            last,
            batches=last.batches + 1,
            cpu_seconds=last.cpu_seconds + cpu,
            wall_seconds=last.wall_seconds + wall,
        )

    def _begin(self, network: PrimeNetwork) -> None:
        self.phases.append(Phase(sum(map(len, network.capsule_names)), count_training(network)))
        # counting is no part of the training
        self._clocks = (time.process_time(), time.perf_counter())


def hands_on_one(network: PrimeNetwork) -> bool:
    """Tell whether every block hands on the map of one capsule, the same for all images of a batch."""
    routers = [block.router for block in network.prime_blocks]
    return network.local and all(r.chooses or (isinstance(r, Gate) and r.per == "batch") for r in routers)


def changed_late(routes: Sequence[Sequence[str]], late: float = LATE) -> list[float]:
    """Count how often the route changed late in a training.

    Args:
        routes: Names of the routed capsules, one per block, batch by batch.
        late: Which share of the training, its end.

    Returns:
        By block, the share of those batches whose capsule was another than that of the batch before.

    Example:
        >>> changed_late([("k3", "k5")] * 4 + [("k3", "k5"), ("k7", "k5")])  # the last two batches of six count
        [0.5, 0.0]
    """
    first = max(1, len(routes) - round(late * len(routes)))
    pairs = list(zip(routes[first - 1 :], routes[first:], strict=False))
    blocks = len(routes[0]) if pairs else 0
    return [sum(before[i] != after[i] for before, after in pairs) / len(pairs) for i in range(blocks)]


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


class Interval(NamedTuple):
    """A ratio and its 95 % interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_bootstrap(
    local: Sequence[Sequence[bool]], twin: Sequence[Sequence[bool]], draws: int = 10_000, seed: int = 0
) -> Interval:
    """Estimate the ratio of two mean test errors, and a 95 % interval, by resampling images and seeds.

    Each draw takes test images with replacement, the same for both sides and for all seeds, and seeds with
    replacement, the same for both sides: an image that is hard for all, or a split that is bad for both, is no
    difference between them. The limits are the 2.5th and 97.5th percentile of the draws' ratios. Of few seeds the
    resampling knows too little of their spread: among S it finds (S - 1) / S of their variance.

    Args:
        local: Whether each test image was classified correctly, one sequence a seed.
        twin: The same of the other side, of the same seeds and images in the same order.
        draws: How many.
        seed: Of the draws.

    Returns:
        Error of ``local`` over error of ``twin``.

    Raises:
        ValueError: If the two do not have the same seeds and images, or ``twin`` makes no error.

    Example:
        >>> right = [[True, False, True, False]]
        >>> paired_bootstrap(right, right)
        Interval(ratio=1.0, low=1.0, high=1.0)
    """
    shapes = [sorted({len(verdicts) for verdicts in side}) for side in (local, twin)]
    if len(local) != len(twin) or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise ValueError(
            f"local has {len(local)} seeds of {shapes[0]} images and twin {len(twin)} of {shapes[1]}; give verdicts on "
            "the same images for the same seeds"
        )
    # (2, seeds, images)
    wrong = ~np.array([local, twin], dtype=bool)
    if not wrong[1].any():
        raise ValueError("twin makes no error on any image, so that there is no ratio; give harder images")
    seeds, images = wrong.shape[1:]
    # images with the same verdicts throughout are interchangeable: only how many of each kind are drawn matters
    kinds, counts = np.unique(wrong.reshape(2 * seeds, images), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(images, counts / images, size=draws)
    errors = (drawn @ kinds.T.astype(np.int64)).reshape(draws, 2, seeds)
    chosen = generator.integers(seeds, size=(draws, 1, seeds))
    sums = np.take_along_axis(errors, chosen, axis=2).sum(2)
    # draws in which nobody errs say nothing, those in which the twin alone does not are infinite
    sums = sums[sums.any(1)]
    ratios = np.where(sums[:, 1] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1), np.inf)
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(wrong[0].mean() / wrong[1].mean()), float(low), float(high))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Give the mean and the sample standard deviation, None of one value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def shard(items: Sequence[Item], share: str) -> Iterator[Item]:
    """Take a process's share of the work.

    Args:
        items: All of it.
        share: ``"I/N"``: the I-th of N shares, from 1.

    Raises:
        ValueError: If there is no such share.

    Example:
        >>> list(shard("abcde", "2/2"))
        ['b', 'd']
    """
    index, _, count = share.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard={share!r} is no share; give I/N with I from 1 to N, such as 1/2")
    return iter(items[int(index) - 1 :: int(count)])


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options of all such commands.

    Args:
        parser: Of the command.
        out: Its folder for results.
    """
    parser.add_argument("--root", default=os.environ.get("PRIMENET_DATA", "data"), help="Folder of the data.")
    parser.add_argument("--out", type=Path, default=Path(out), help="Folder of the results, to go on with.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--accelerator", default="cpu")


def prepare(threads: int) -> None:
    """Set the threads, and keep Lightning from greeting at each training."""
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in FALSE_ALARMS:
        warnings.filterwarnings("ignore", message)
