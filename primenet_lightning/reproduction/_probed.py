"""Parts that are phase 2: a linear classifier on the network of phase 1."""

import torch
from torch import nn

from primenet_lightning.analysis.cost import count_module
from primenet_lightning.analysis.features import extract_features, feature_extractor
from primenet_lightning.analysis.memory import training_activation_bytes
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.analysis.probe import fit_finetuned, fit_probe
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.models.linear_probe import LinearProbe
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.reproduction._plan import PAPER_RECIPE, Probing
from primenet_lightning.reproduction._results import Result
from primenet_lightning.reproduction._trained import about
from primenet_lightning.reproduction._workplace import OnEpoch, Workplace
from primenet_lightning.runs.summary import device_in_words, versions


def probe(part: Probing, seed: int, place: Workplace, on_epoch: OnEpoch | None) -> Result:
    """Fit a linear classifier on the network of part ``prime``."""
    settings = place.settings
    data = place.load(seed, settings.images)
    phase_1, model = _phase_1(place, seed)

    def after(epoch: int) -> None:
        if on_epoch is not None:
            on_epoch(epoch, 0.0)

    epochs, batch_size = settings.probe_epochs, settings.probe_batch_size
    extractor = feature_extractor(model, part.layer)
    if part.finetune:
        fitted = fit_finetuned(model, data, epochs, batch_size, seed, accelerator=place.accelerator, on_epoch=after)
        device = device_in_words(place.device)
    else:
        features = extract_features(extractor, data, place.device)
        fitted = fit_probe(features, data.num_classes, epochs, batch_size, seed, on_epoch=after)
        device = device_in_words(torch.device("cpu"))
    return Result(
        name=part.name,
        seed=seed,
        epochs=epochs,
        all_images=settings.images is None,
        recipe=f"{PAPER_RECIPE}, batch {batch_size}",
        test_error=fitted.test_error,
        validation_error=fitted.validation_error,
        curves={
            "train_accuracy": fitted.train_accuracy,
            "train_loss": fitted.train_loss,
            "validation_accuracy": fitted.validation_accuracy,
        },
        cost=_cost(extractor.cpu(), fitted.num_features, data, part.finetune, batch_size),
        seconds_per_epoch=fitted.seconds / epochs,
        seconds=fitted.seconds,
        extra={
            "epochs_until_converged": fitted.epochs_until_converged,
            "epochs_until_converged_validation": fitted.epochs_until_converged_validation,
            "logistic_test_error": fitted.logistic_test_error,
            "phase1_test_error": phase_1.test_error,
            "features": fitted.num_features,
        },
        **about(data),
        device=device,
        versions=versions(),
    )


def _phase_1(place: Workplace, seed: int) -> tuple[Result, PrimeNet]:
    """The result and the network of part ``prime``."""
    model = load_model(place.folder.best("prime", seed, "phase 2"))
    result = place.folder.result("prime", seed)
    assert isinstance(model, PrimeNet)
    assert result is not None
    return result, model


def _cost(
    extractor: nn.Module, features: int, data: ImageDataModule, finetune: bool, batch_size: int
) -> dict[str, float]:
    """Of features and layer together at inference; in training of what learns, features being extracted once."""
    in_shape = (data.in_channels, *data.image_size)
    network: nn.Module = LinearProbe(features, data.num_classes, extractor, finetune)
    cost: dict[str, float] = count_module(network, in_shape)._asdict()
    if not finetune:
        network, in_shape = nn.Sequential(nn.Flatten(), nn.Linear(features, data.num_classes)), (features, 1, 1)
        cost["multiply_adds_training"] = count_module(network, in_shape).multiply_adds_training
    cost["activation_bytes"] = training_activation_bytes(network, in_shape, batch_size, data.num_classes)
    return cost
