"""Parts that train a network: what they leave behind."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from primenet_lightning.analysis.cost import Cost, count_cost, count_inference
from primenet_lightning.analysis.memory import training_activation_bytes
from primenet_lightning.analysis.paper_figures import cluster, figure_maps
from primenet_lightning.analysis.passes import in_batches
from primenet_lightning.baselines import MultiExit, exit_costs, exit_table
from primenet_lightning.callbacks import GracefulStop, LastCheckpoint
from primenet_lightning.callbacks.filter_pruning import SoftFilterPruning, pruned_multiply_adds
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.architecture import Size
from primenet_lightning.reproduction._curves import curve_of
from primenet_lightning.reproduction._evaluation import all_scores, routing_errors
from primenet_lightning.reproduction._plan import Training, extent_of
from primenet_lightning.reproduction._results import Arrays, Result
from primenet_lightning.reproduction._workplace import OnEpoch, Workplace
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.summary import device_in_words, versions
from primenet_lightning.training.checkpoints import BestCheckpoint
from primenet_lightning.training.fitting import Notes, fit_and_test, quiet_trainer

CLUSTERED = ("prime", "resnet50")
"""Parts whose features figure 6 shows."""

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""At which the network of several exits is looked at."""

BINS = 200
"""Points of a curve by step."""


def train(part: Training, seed: int, place: Workplace, on_epoch: OnEpoch | None) -> tuple[Result, Arrays | None]:
    """Train a network, test it, and look at it in all ways that the report needs; or go on with that."""
    settings = place.settings
    epochs, images = extent_of(part, settings)
    data = place.load(seed, images)
    options: dict[str, Any] = {}
    if part.begins_with is not None:
        options["trained"] = str(place.folder.best(part.begins_with, seed, f"part {part.name}"))
    model = part.build(data, cast(Size, settings.size), **options)
    callbacks, notes = part.callbacks(), Notes(on_epoch)

    # train, and test the best checkpoint
    run = RunFolder(place.folder.of(part.name, seed))
    best = BestCheckpoint(run.checkpoints)
    last = LastCheckpoint(run.checkpoints, every_n_train_steps=10**9)  # so, at the end of each epoch
    callbacks += [best, notes, last, GracefulStop(place.resume_with)]
    trainer = quiet_trainer(epochs, callbacks, run.path, place.accelerator, settings.precision)
    fitted = fit_and_test(trainer, model, data, best, resume_from=run.last)
    model = model.cpu().eval()

    # look at it
    in_shape = (data.in_channels, *data.image_size)
    extra, arrays = _looked_at(part, model, data, notes, seed == 0)
    for callback in callbacks:
        if isinstance(callback, SoftFilterPruning):  # whose masks came with the checkpoint that was tested
            extra["rate"] = callback.rate
            extra["multiply_adds_pruned"] = pruned_multiply_adds(model, in_shape, callback.masks)
    memory = training_activation_bytes(cast(Any, model.network), in_shape, settings.batch_size, data.num_classes)
    result = Result(
        name=part.name,
        seed=seed,
        epochs=epochs,
        all_images=images is None,
        recipe=f"{part.recipe}, batch {settings.batch_size}",
        test_error=round(fitted.test_error, 6),
        validation_error=round(fitted.validation_error, 6),
        curves=notes.curves,
        cost={**cost_of(model)._asdict(), "activation_bytes": memory},
        seconds_per_epoch=notes.seconds / epochs,
        seconds=notes.seconds,
        extra=extra,
        **about(data),
        device=device_in_words(place.device),
        versions=versions(),
    )
    return result, arrays


def about(data: ImageDataModule) -> dict[str, Any]:
    """What a result says of its data."""
    return {
        "images": len(data.train_dataset),
        "validation_images": len(data.validation_dataset),
        "test_images": len(data.test_dataset),
        "in_shape": [data.in_channels, *data.image_size],
        "classes": data.num_classes,
    }


def cost_of(model: LightningModule) -> Cost:
    """Count parameters and multiply-adds of a model of a plan, for one image."""
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
        extra["paper_size_cost"] = _paper_size_cost(data)
        if first:
            arrays |= figure_maps(model, data)
    if isinstance(model, MultiExit):
        extra["exits"] = _exits(model, data)
    curve = curve_of(model, data)
    if curve:
        extra["curve"] = curve
    return extra, arrays or None


def _paper_size_cost(data: ImageDataModule) -> dict[str, int]:
    """What the network of the authors' widths costs on these images, by the cheapest of its routes."""
    network = PrimeNet(data.in_channels, data.image_size, data.num_classes, size="paper").network
    routes = range(len(network.capsule_names[0]))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds_inference": min(count_inference(network, route=(k,)) for k in routes),
    }


def _routed(model: PrimeNet, data: ImageDataModule, notes: Notes) -> dict[str, Any]:
    """Where training routed, what that made of the losses, and what other routes would make of the error."""
    names = [_short(name) for name in model.network.capsule_names[0]]
    (majority,) = model.network.inference_route()
    routes = [_short(route[0]) for route in notes.routes]
    epoch = len(routes) // len(notes.curves["train_loss"])
    losses = {"step": binned(range(1, len(routes) + 1))}
    for name, values in notes.losses.items():
        losses[_short(name)] = binned(values)
    return {
        "routings": routing_errors(all_scores(model, data, data.test_dataset), majority, names),
        "shares": _shares(routes[-epoch:], names),
        "shares_all": _shares(routes, names),
        "losses": losses,
    }


def _short(name: str) -> str:
    """A capsule's name without that of its block."""
    return name.rpartition(".")[2]


def _shares(routes: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    counts = Counter(routes)
    return {name: counts[name] / len(routes) for name in names}


def binned(values: Sequence[float], bins: int = BINS) -> list[float]:
    """Average a curve within bins of equal length, as nearly as that goes.

    Example:
        >>> binned([1.0, 3.0, 5.0, 7.0], bins=2)
        [2.0, 6.0]
    """
    parts = torch.tensor_split(torch.tensor(values, dtype=torch.float64), min(bins, len(values)))
    return [float(part.mean()) for part in parts]


@torch.inference_mode()
def _exits(model: MultiExit, data: ImageDataModule) -> list[dict[str, float]]:
    """Error and mean cost of the network of several exits by threshold, on the test split."""
    network: Any = model.network.model
    batches: list[list[Tensor]] = []
    for images, _ in in_batches(data.test_dataset, 500):
        batches.append(list(network(model.images_of(data.normalize(images)))))
    logits = list(map(torch.cat, zip(*batches, strict=True)))
    costs = exit_costs(network, (model.in_shape[0], model.in_shape[1], model.in_shape[2]))
    return [row._asdict() for row in exit_table(logits, data.test_dataset.labels, costs, THRESHOLDS)]
