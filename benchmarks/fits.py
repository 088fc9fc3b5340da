"""What the benchmarks of errors share: whole trainings of `PrimeNet`, what is noted of them, and options."""

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
from typing import Any, TypeVar

import torch
from kept_fits import Fit, Phase, key_of
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
