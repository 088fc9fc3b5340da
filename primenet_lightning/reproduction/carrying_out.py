"""Carries out the parts of a plan that are missing."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from primenet_lightning.analysis.cost import Cost, count_cost, count_inference, count_module
from primenet_lightning.analysis.features import extract_features, feature_extractor
from primenet_lightning.analysis.memory import training_activation_bytes
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.analysis.probe import fit_finetuned, fit_probe
from primenet_lightning.baselines import MultiExit, exit_costs, exit_table
from primenet_lightning.callbacks.filter_pruning import SoftFilterPruning, pruned_multiply_adds
from primenet_lightning.datamodules import (
    CIFAR10DataModule,
    DigitsDataModule,
    ImageDataModule,
    MNISTDataModule,
    SVHNDataModule,
)
from primenet_lightning.datamodules.svhn import SUBSET_FOLDER
from primenet_lightning.models.linear_probe import LinearProbe
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.architecture import Size
from primenet_lightning.reproduction.evaluation import all_verdicts, cluster, figure_maps, routing_errors
from primenet_lightning.reproduction.plan import PAPER_RECIPE, Dataset, Part, Probing, Training
from primenet_lightning.reproduction.results import Arrays, Folder, Result, Settings
from primenet_lightning.reproduction.training import Notes, binned, device_in_words, device_of, seed_all, train
from primenet_lightning.runs.summary import versions

KINDS: dict[Dataset, type[ImageDataModule]] = {
    "mnist": MNISTDataModule,
    "cifar10": CIFAR10DataModule,
    "svhn": SVHNDataModule,
    "digits": DigitsDataModule,
}

CLUSTERED = ("prime", "resnet50")
"""Parts whose features figure 6 shows."""

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""At which the network of several exits is looked at."""

OnEpoch = Callable[[int, float], None]
"""Is told how many epochs of a part are done, and the seconds they took."""


@dataclass(frozen=True)
class Workplace:
    """Where and how parts are carried out.

    Attributes:
        folder: Of the reproduction.
        settings: What holds for all parts.
        root: Folder of the data; None as in `ImageDataModule`.
        accelerator: Of the Trainer.
        resume_with: The command that goes on after an interruption.
    """

    folder: Folder
    settings: Settings
    root: str | None = None
    accelerator: str = "auto"
    resume_with: str | None = None

    def load(self, seed: int, images: int | None) -> ImageDataModule:
        """Make and set up the data module.

        Args:
            seed: Of split, subset and order.
            images: Training images; None for all.

        Returns:
            The data module, set up.
        """
        data = make_data(self.settings.dataset, self.root, seed, self.settings.batch_size, images)
        data.prepare_data()
        data.setup("fit")
        return data


def make_data(dataset: str, root: str | None, seed: int, batch_size: int, images: int | None) -> ImageDataModule:
    """Make a data module; that of SVHN takes the subset where it is all there is.

    Args:
        dataset: Name of the data set, or ``"svhn-subset"``.
        root: Folder of the data.
        seed: Of split, subset and order.
        batch_size: Training images a batch.
        images: Training images; None for all.

    Returns:
        The data module, not yet set up.
    """
    kind = KINDS[cast(Dataset, dataset.removesuffix("-subset"))]
    data = kind(root=root, seed=seed, batch_size=batch_size, limit_train=images)
    subset = data.root / SUBSET_FOLDER
    if dataset.startswith("svhn") and not (data.root / "train_32x32.mat").is_file() and subset.is_dir():
        data = kind(root=root, seed=seed, batch_size=batch_size, limit_train=images, verify=False, download=False)
    return data


def conditions_of(part: Part, settings: Settings) -> dict[str, Any]:
    """Gather all that decides the result of a part, its seed apart.

    Args:
        part: Of the plan.
        settings: Of the reproduction.

    Returns:
        Plain values by name.
    """
    epochs, images = extent_of(part, settings)
    found: dict[str, Any] = {name: getattr(settings, name) for name in ("dataset", "size", "precision")}
    found |= {"epochs": epochs, "images": images, "batch_size": settings.batch_size}
    if isinstance(part, Probing):
        found |= {"phase1_epochs": settings.epochs, "probe_batch_size": settings.probe_batch_size}
    return found


def carry_out(part: Part, seed: int, place: Workplace, on_epoch: OnEpoch | None = None) -> Result:
    """Carry out a part with one seed, and keep what comes out; what is there already is read instead.

    Args:
        part: Of the plan.
        seed: Of weights, splits and order.
        place: Where and how.
        on_epoch: Is told of each epoch.

    Returns:
        What is kept.

    Raises:
        ValueError: If the part was begun under other conditions.
    """
    conditions = conditions_of(part, place.settings)
    place.folder.check(part.name, seed, conditions)
    result = place.folder.result(part.name, seed)
    if result is None:
        place.folder.start(part.name, seed, conditions)
        seed_all(seed)
        if isinstance(part, Probing):
            result, arrays = _probe(part, seed, place, on_epoch), None
        else:
            result, arrays = _train(part, seed, place, on_epoch)
        if place.settings.dataset == SUBSET_FOLDER:
            result = without_errors(result)
        place.folder.keep(result, arrays)
    # only now: a part that is stopped before goes on from them
    checkpoints = place.folder.of(part.name, seed) / "checkpoints"
    if part.name == "prime":  # whose network phase 2 takes
        (checkpoints / "last.ckpt").unlink(missing_ok=True)
    else:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def without_errors(result: Result) -> Result:
    """Leave out what may not pass for an error on a data set's test images.

    Args:
        result: Of a part on other images.

    Returns:
        The same without test errors.
    """
    errors = ("routings", "exits", "phase1_test_error", "logistic_test_error")
    extra = {name: value for name, value in result.extra.items() if name not in errors}
    return Result(**(vars(result) | {"test_error": None, "extra": extra}))


# -- networks ----------------------------------------------------------------------------------------------------------


def _train(part: Training, seed: int, place: Workplace, on_epoch: OnEpoch | None) -> tuple[Result, Arrays | None]:
    settings = place.settings
    epochs, images = extent_of(part, settings)
    data = place.load(seed, images)
    model = part.build(data, cast(Size, settings.size))
    callbacks = part.callbacks()
    notes = Notes(on_epoch)
    folder = place.folder.of(part.name, seed)
    test_error, validation_error = train(
        model, data, epochs, folder, notes, callbacks, settings.precision, place.accelerator, place.resume_with
    )
    model = model.cpu().eval()
    extra, arrays = _looked_at(part, model, data, notes, seed == 0)
    cost, network, in_shape = cost_of(model), cast(nn.Module, model.network), (data.in_channels, *data.image_size)
    for callback in callbacks:
        if isinstance(callback, SoftFilterPruning):  # whose masks came with the checkpoint that was tested
            extra |= {
                "rate": callback.rate,
                "multiply_adds_pruned": pruned_multiply_adds(model, in_shape, callback.masks),
            }
    memory = training_activation_bytes(network, in_shape, settings.batch_size, data.num_classes)
    result = Result(
        name=part.name,
        seed=seed,
        epochs=epochs,
        all_images=images is None,
        recipe=f"{part.recipe}, batch {settings.batch_size}",
        test_error=round(test_error, 6),
        validation_error=round(validation_error, 6),
        curves=notes.curves,
        cost={**cost._asdict(), "activation_bytes": memory},
        seconds_per_epoch=notes.seconds / epochs,
        seconds=notes.seconds,
        extra=extra,
        **_of_data(data),
        device=device_in_words(place.accelerator),
        versions=versions(),
    )
    return result, arrays


def _of_data(data: ImageDataModule) -> dict[str, Any]:
    """What a result says of its data."""
    return {
        "images": len(data.train_dataset),
        "validation_images": len(data.validation_dataset),
        "test_images": len(data.test_dataset),
        "in_shape": [data.in_channels, *data.image_size],
        "classes": data.num_classes,
    }


def extent_of(part: Part, settings: Settings) -> tuple[int, int | None]:
    """Tell how many epochs a part takes, and how many training images it sees.

    Args:
        part: Of the plan.
        settings: Of the reproduction.

    Returns:
        Epochs and images; None for all.
    """
    if isinstance(part, Probing):
        return settings.probe_epochs, settings.images
    if part.heavy:
        return settings.heavy_epochs or settings.epochs, settings.heavy_images
    return settings.epochs, settings.images


def cost_of(model: LightningModule) -> Cost:
    """Count parameters and multiply-adds of a model of a plan.

    Args:
        model: A `PrimeNet` or an `ImageClassifier`.

    Returns:
        The cost for one image.
    """
    network: Any = model.network
    return count_cost(network)


def _looked_at(
    part: Training, model: LightningModule, data: ImageDataModule, notes: Notes, first: bool
) -> tuple[dict[str, Any], Arrays | None]:
    """What only some parts have, and the arrays of their figures."""
    extra: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    if part.name in CLUSTERED:
        extra["separation"], arrays = cluster(model, data, first)
    if isinstance(model, PrimeNet) and part.name == "prime":
        extra |= _routed(model, data, notes)
        extra["paper_size_cost"] = paper_size_cost(data)
        if first:
            arrays |= figure_maps(model, data)
    if isinstance(model, MultiExit):
        extra["exits"] = _exits(model, data)
    return extra, arrays or None


def paper_size_cost(data: ImageDataModule) -> dict[str, int]:
    """Count what the network of the authors' widths costs on these images.

    Args:
        data: Tells the shape of the images.

    Returns:
        ``"parameters"``, and ``"multiply_adds_inference"`` of the cheapest of its routes.
    """
    network = PrimeNet(data.in_channels, data.image_size, data.num_classes, size="paper").network
    routes = range(len(network.capsule_names[0]))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds_inference": min(count_inference(network, route=(k,)) for k in routes),
    }


def _routed(model: PrimeNet, data: ImageDataModule, notes: Notes) -> dict[str, Any]:
    names = [name.partition(".")[2] for name in model.network.capsule_names[0]]
    (majority,) = model.network.inference_route()
    last = notes.routes[-(len(notes.routes) // len(notes.curves["train_loss"])) :]
    steps = [float(step) for step in range(1, len(notes.routes) + 1)]
    return {
        "routings": routing_errors(all_verdicts(model, data, data.test_dataset), majority, names),
        "shares": _shares(last, names),
        "shares_all": _shares(notes.routes, names),
        "losses": {"step": binned(steps)}
        | {name.partition(".")[2] or name: binned(values) for name, values in notes.losses.items()},
    }


def _shares(routes: Sequence[int], names: Sequence[str]) -> dict[str, float]:
    return {name: routes.count(k) / len(routes) for k, name in enumerate(names)}


@torch.inference_mode()
def _exits(model: MultiExit, data: ImageDataModule) -> list[dict[str, float]]:
    """Error and mean cost of the network of several exits by threshold, on the test split."""
    network: Any = model.network.model
    parts: list[list[Tensor]] = []
    for rows in torch.split(torch.arange(len(data.test_dataset)), 500):
        images, _ = data.test_dataset[rows]
        parts.append(list(network(model.images_of(data.normalize(images)))))
    logits = [torch.cat(some) for some in zip(*parts, strict=True)]
    costs = exit_costs(network, (model.in_shape[0], model.in_shape[1], model.in_shape[2]))
    return [row._asdict() for row in exit_table(logits, data.test_dataset.labels, costs, THRESHOLDS)]


# -- phase 2 -----------------------------------------------------------------------------------------------------------


def _probe(part: Probing, seed: int, place: Workplace, on_epoch: OnEpoch | None) -> Result:
    settings = place.settings
    data = place.load(seed, settings.images)
    phase1, model = _phase_1(place, seed)

    def after(epoch: int) -> None:
        if on_epoch is not None:
            on_epoch(epoch, 0.0)

    epochs, batch_size = settings.probe_epochs, settings.probe_batch_size
    extractor = feature_extractor(model, part.layer)
    if part.finetune:
        found = fit_finetuned(model, data, epochs, batch_size, seed, accelerator=place.accelerator, on_epoch=after)
    else:
        features = extract_features(extractor, data, device_of(place.accelerator))
        found = fit_probe(features, data.num_classes, epochs, batch_size, seed, on_epoch=after)
    return Result(
        name=part.name,
        seed=seed,
        epochs=epochs,
        all_images=settings.images is None,
        recipe=f"{PAPER_RECIPE}, batch {batch_size}",
        test_error=found.test_error,
        validation_error=found.validation_error,
        curves={
            "train_accuracy": found.train_accuracy,
            "train_loss": found.train_loss,
            "validation_accuracy": found.validation_accuracy,
        },
        cost=_cost_of_probe(extractor.cpu(), found.num_features, data, part.finetune, batch_size),
        seconds_per_epoch=found.seconds / epochs,
        seconds=found.seconds,
        extra={
            "epochs_until_converged": found.epochs_until_converged,
            "epochs_until_converged_validation": found.epochs_until_converged_validation,
            "logistic_test_error": found.logistic_test_error,
            "phase1_test_error": phase1.test_error,
            "features": found.num_features,
        },
        **_of_data(data),
        device=device_in_words(place.accelerator if part.finetune else "cpu"),
        versions=versions(),
    )


def _phase_1(place: Workplace, seed: int) -> tuple[Result, PrimeNet]:
    """The result and the network of part ``prime``."""
    folder = place.folder.of("prime", seed)
    best, result = folder / "checkpoints" / "best.ckpt", place.folder.result("prime", seed)
    if result is None or not best.is_file():
        raise FileNotFoundError(f"{best} is missing, which phase 2 takes; delete {folder}, and the part is run again")
    model = load_model(best)
    assert isinstance(model, PrimeNet)
    return result, model


def _cost_of_probe(
    extractor: nn.Module, features: int, data: ImageDataModule, finetune: bool, batch_size: int
) -> dict[str, float]:
    """Of features and layer together at inference; in training of what learns, features being extracted once."""
    probe = LinearProbe(features, data.num_classes, extractor, finetune)
    in_shape = (data.in_channels, *data.image_size)
    cost = count_module(probe, in_shape)
    if finetune:
        memory = training_activation_bytes(probe, in_shape, batch_size, data.num_classes)
        return {**cost._asdict(), "activation_bytes": memory}
    layer, shape = nn.Sequential(nn.Flatten(), nn.Linear(features, data.num_classes)), (features, 1, 1)
    memory = training_activation_bytes(layer, shape, batch_size, data.num_classes)
    return {
        **cost._asdict(),
        "multiply_adds_training": count_module(layer, shape).multiply_adds_training,
        "activation_bytes": memory,
    }
