"""Phase 2: a linear classifier on the features of a trained network (section 4.1, section 5.2)."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from primenet_lightning.analysis.features import FeatureLayer, feature_extractor
from primenet_lightning.arguments import at_least
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.datamodules.features import FeatureDataModule, SplitFeatures
from primenet_lightning.models.linear_probe import LinearProbe
from primenet_lightning.nn.layers import trial_run
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.fitting import BestWeights, Notes, fit_and_test, quiet_trainer, quietly
from primenet_lightning.training.optimizers import OptimizerCallable

WITHIN = 0.1
"""Percentage points of the final accuracy within which a probe counts as converged."""


@dataclass(frozen=True)
class ProbeResult:
    """What phase 2 has given.

    Attributes:
        test_error: In %, measured once, on the weights of the epoch of least validation error.
        validation_error: In %, of that epoch.
        train_accuracy: In %, by epoch, taken batch by batch before the batch was learned from.
        train_loss: In nats, likewise.
        validation_accuracy: In %, at the end of each epoch.
        epochs_until_converged: See `epochs_until_converged`, of the training accuracy.
        epochs_until_converged_validation: Of the validation accuracy.
        logistic_test_error: Of `logistic_regression`, in %; None where it was not asked for.
        num_features: Features an image.
        seconds: Of the fit, its validations included; not of the test, nor of the logistic regression.
    """

    test_error: float
    validation_error: float
    train_accuracy: list[float]
    train_loss: list[float]
    validation_accuracy: list[float]
    epochs_until_converged: int
    epochs_until_converged_validation: int
    logistic_test_error: float | None
    num_features: int
    seconds: float


def epochs_until_converged(accuracies: Sequence[float], within: float = WITHIN) -> int:
    """Tell when a curve has come to its end.

    Args:
        accuracies: In %, one per epoch.
        within: Percentage points.

    Returns:
        The first epoch, counted from 1, from which on every accuracy, its own included, lies within so many points of
        the last one.

    Raises:
        ValueError: If there is no accuracy, or ``within`` is negative.

    Example:
        >>> epochs_until_converged([90.0, 97.95, 97.5, 97.9, 98.0])  # the second is near, the third no more
        4
    """
    if not accuracies:
        raise ValueError("accuracies=[] is empty; give one an epoch")
    if within < 0:
        raise ValueError(f"within={within} must not be negative")
    # accuracies are counted in float32, whose fifth decimal of a percentage is noise
    last_away = 0
    for epoch, accuracy in enumerate(accuracies, 1):
        if round(abs(accuracy - accuracies[-1]), 4) > within:
            last_away = epoch
    return last_away + 1


def fit_probe(
    splits: Mapping[str, SplitFeatures],
    num_classes: int,
    epochs: int = 50,
    batch_size: int = 32,
    seed: int = 0,
    optimizer: OptimizerCallable = PaperAdam,
    logistic: bool = True,
    accelerator: str = "cpu",
    on_epoch: Callable[[int], None] | None = None,
) -> ProbeResult:
    """Fit a linear classifier on features, the paper's phase 2.

    Args:
        splits: From `extract_features`.
        num_classes: Number of classes.
        epochs: Passes over the training split.
        batch_size: Images in a batch.
        seed: Of the initial weights and of the order; the global random state is left alone.
        optimizer: Makes the optimizer.
        logistic: Whether scikit-learn's logistic regression is fitted as well.
        accelerator: Where; a layer this small is faster on the CPU.
        on_epoch: Is told the number of epochs done, after each.

    Returns:
        The result.

    Raises:
        ValueError: If a number is too small, or the features cannot be used, see `FeatureDataModule`.
        NonFiniteError: If the loss is NaN or infinite.

    Example:
        >>> features, labels = torch.eye(2).repeat(8, 1), torch.arange(16) % 2
        >>> splits = {name: SplitFeatures(features, labels) for name in ("train", "validation", "test")}
        >>> result = fit_probe(splits, num_classes=2, epochs=1, batch_size=8)
        >>> result.logistic_test_error, len(result.train_loss)
        (0.0, 1)
    """
    refuse_schedule(epochs, batch_size, seed)
    data = FeatureDataModule(splits, batch_size, seed)
    num_features = splits["train"].features.shape[1]
    with _seeded(seed):
        probe = LinearProbe(num_features, num_classes, optimizer=optimizer)
        fitted = _fit(probe, data, epochs, accelerator, on_epoch)
    error = None
    if logistic:
        error = logistic_regression(splits, seed)
    return ProbeResult(**fitted, logistic_test_error=error, num_features=num_features)


def fit_finetuned(
    model: nn.Module,
    data: ImageDataModule,
    epochs: int = 50,
    batch_size: int = 32,
    seed: int = 0,
    layer: FeatureLayer = "head",
    optimizer: OptimizerCallable = PaperAdam,
    accelerator: str = "cpu",
    on_epoch: Callable[[int], None] | None = None,
) -> ProbeResult:
    """Fit a linear classifier together with the network below it, end to end: the ablation of phase 2.

    What learns beside the classifier is what a gradient reaches, see `feature_extractor`: of a PrimeNet the routed
    capsules, the projections and the head before its last layer, by one loss and across all blocks, along the route
    that inference takes. Images are augmented if ``data`` does so.

    Args:
        model: Left as it is; a copy learns.
        data: Left as it is; its splits and its augmentation are used.
        epochs: Passes over the training split.
        batch_size: Images in a batch.
        seed: Of the classifier's initial weights and of the order.
        layer: See `feature_extractor`.
        optimizer: Makes the one optimizer of all that learns.
        accelerator: Where.
        on_epoch: Is told the number of epochs done, after each.

    Returns:
        The result, without a logistic regression.

    Raises:
        ValueError: If a number is too small, or the network has no such layer.
        NonFiniteError: If the loss is NaN or infinite.
    """
    refuse_schedule(epochs, batch_size, seed)
    data.setup()
    images = copy.copy(data)  # the split is made by now: this seed is of the order alone
    images.batch_size, images.seed, images.trainer = batch_size, seed, None
    with _seeded(seed):
        backbone = feature_extractor(copy.deepcopy(model), layer)
        num_features = _width(backbone, data)
        probe = LinearProbe(num_features, data.num_classes, backbone, finetune=True, optimizer=optimizer)
        fitted = _fit(probe, images, epochs, accelerator, on_epoch)
    return ProbeResult(**fitted, logistic_test_error=None, num_features=num_features)


def _width(extractor: nn.Module, data: ImageDataModule) -> int:
    """Features an image."""
    like = next(extractor.parameters())
    with trial_run(extractor):
        return int(extractor(like.new_zeros(2, data.in_channels, *data.image_size)).flatten(1).shape[1])


def _fit(
    probe: LinearProbe,
    data: LightningDataModule,
    epochs: int,
    accelerator: str,
    on_epoch: Callable[[int], None] | None,
) -> dict[str, Any]:
    """Train, and test the best epoch once: the fields of a `ProbeResult` that come of it."""

    def after(epochs_done: int, seconds: float) -> None:
        if on_epoch is not None:
            on_epoch(epochs_done)

    best, notes = BestWeights(), Notes(after)
    with quietly():
        trainer = quiet_trainer(epochs, [best, notes], accelerator=accelerator)
        fitted = fit_and_test(trainer, probe, data, best)
    train_accuracy, validation_accuracy = notes.curves["train_accuracy"], notes.curves["validation_accuracy"]
    return {
        "test_error": fitted.test_error,
        "validation_error": fitted.validation_error,
        "train_accuracy": train_accuracy,
        "train_loss": notes.curves["train_loss"],
        "validation_accuracy": validation_accuracy,
        "epochs_until_converged": epochs_until_converged(train_accuracy),
        "epochs_until_converged_validation": epochs_until_converged(validation_accuracy),
        "seconds": fitted.seconds,
    }


def refuse_schedule(epochs: int, batch_size: int, seed: int) -> None:
    """Refuse numbers that are out of their range.

    Args:
        epochs: At least 1.
        batch_size: At least 1.
        seed: From 0 to 2**32 - 1.

    Raises:
        ValueError: If one is not so.
    """
    at_least(1, epochs=epochs, batch_size=batch_size)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is out of range; give a whole number from 0 to 2**32 - 1")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside, and go on outside with the random numbers of before."""
    devices: list[int] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = [torch.cuda.current_device()]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def logistic_regression(splits: Mapping[str, SplitFeatures], seed: int = 0, max_iter: int = 1000) -> float:
    """Fit scikit-learn's multinomial logistic regression on the same features, as a check of the probe.

    The features are standardised by the training split's means and deviations; the penalty is scikit-learn's default,
    L2 with C = 1, chosen by nobody, so that the validation split is not used. Solved by L-BFGS; a solution that has not
    converged is warned about. It takes twice the memory of the training features beside them.

    Args:
        splits: From `extract_features`.
        seed: Handed on, though L-BFGS draws no random numbers.
        max_iter: Most iterations.

    Returns:
        Test error in %.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=max_iter, random_state=seed))
    train, test = splits["train"], splits["test"]
    model.fit(train.features.numpy(), train.labels.numpy())
    return 100 * (1 - float(model.score(test.features.numpy(), test.labels.numpy())))
