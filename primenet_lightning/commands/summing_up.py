"""After the fit: what came out, written into the run folder, sent to W&B, and printed."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console

from primenet_lightning.analysis.cost import count_cost, local_share
from primenet_lightning.analysis.routing import shares_of_capsules
from primenet_lightning.commands.attached import has_capsules
from primenet_lightning.commands.wandb_process import finish_wandb, wandb_place
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.files import without_stopping
from primenet_lightning.models.cut import CutNet
from primenet_lightning.paper import PAPER, PAPER_COST
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.report import write_report
from primenet_lightning.runs.summary import git_commit, peak_memory_bytes, result_rows, result_table, versions
from primenet_lightning.training.fitting import Fitted
from primenet_lightning.training.learner import LocalLearner

TAKEN = {
    "multiply_adds_taken": "test/multiply_adds",
    "budget_error": "test/budget/error",
    "budget_multiply_adds": "test/budget/multiply_adds",
}
"""What a summary says of networks whose cost depends on the image, and the metric that it is."""


def sum_up(run: RunFolder, trainer: Trainer, summary: dict[str, Any], best_epoch: int) -> None:
    """Write what came out wherever somebody may look for it; a full disk or a lost network becomes a warning.

    Args:
        run: Gets ``summary.json`` and ``report.html``.
        trainer: Its W&B loggers get the numbers, and a table.
        summary: From `summary_of`.
        best_epoch: Which was tested, counted from 0.
    """
    with without_stopping(f"writing into {run.path}"):
        run.write_summary(summary)
        write_report(run)
    places: list[str] = []
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            _send(logger, summary)
            place = wandb_place(logger.experiment)
            if place is not None:
                places.append(place)
    finish_wandb()  # it may have some words to say, and the table shall be the last
    Console().print(result_table(summary))
    # not by rich, which would wrap it
    if "tested_weights" in summary:
        print(f"tested: the last weights, after epoch {best_epoch}; there are no validation images to choose by")
    else:
        print(f"best epoch: {best_epoch} (of 0 to {summary['epochs'] - 1})")
    for place in places:
        print(place)
    print(f"report: {run.report}")
    print(f"run folder: {run.path}")


def epoch_of(checkpoint: Path) -> int:
    """Tell after which epoch a checkpoint was saved.

    Args:
        checkpoint: The file.

    Returns:
        The epoch, counted from 0 as in ``metrics.csv``.
    """
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["epoch"])


def _send(logger: WandbLogger, summary: dict[str, Any]) -> None:
    with without_stopping("sending the summary to W&B"):
        logger.experiment.summary.update({f"final/{name}": value for name, value in summary.items()})
        logger.log_table("tables/summary", columns=["what", "measured", "claimed"], data=result_rows(summary))


def summary_of(
    model: LocalLearner, data: ImageDataModule, trainer: Trainer, fitted: Fitted, seed: int
) -> dict[str, Any]:
    """Gather what ``summary.json`` holds.

    Args:
        model: With the weights that were tested.
        data: Which it learned from.
        trainer: Which has trained it.
        fitted: Its errors, and the time it took.
        seed: Of everything random.

    Returns:
        Plain values; of routing and of the paper's claims only where there are capsules, of local classifiers' shares
        only where a backbone is cut, of averages over views of the test images only where these were asked for, and of
        what images took only where that depends on the image.
    """
    network: Any = model.network
    cost = count_cost(network)
    summary = {
        "model": type(model).__name__,
        "dataset": data.dataset_name,
        "seed": seed,
        "test_images": len(data.test_dataset),
        "test_error": round(fitted.test_error, 4),  # counted in float32, which has no more digits
        **_views(model, trainer),
        **_chosen(fitted),
        "parameters": cost.parameters,
        "multiply_adds_inference": cost.multiply_adds_inference,
        "multiply_adds_training": cost.multiply_adds_training,
        **_taken(trainer),
        "epochs": trainer.current_epoch,
        "skipped_steps": model.skipped_steps,
        "seconds": fitted.seconds,
        "images_per_second": images_seen(trainer, data) / fitted.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        **_cutting(model),
        **_routing(model),
        "versions": versions(),
        "git_commit": git_commit(),
    }
    if has_capsules(model) and data.dataset_name in PAPER:
        summary["paper"] = PAPER[data.dataset_name] | PAPER_COST
    return summary


def _taken(trainer: Trainer) -> dict[str, float]:
    """What a test image took on average, and the error at that; nothing of networks of one cost."""
    metrics = trainer.callback_metrics
    return {name: float(metrics[metric]) for name, metric in TAKEN.items() if metric in metrics}


def _chosen(fitted: Fitted) -> dict[str, Any]:
    """The validation error of the weights that were tested; or that nothing has chosen them."""
    if math.isnan(fitted.validation_error):
        return {"tested_weights": "last epoch"}
    return {"validation_error": round(fitted.validation_error, 4)}


def _views(model: LocalLearner, trainer: Trainer) -> dict[str, float]:
    """The test error over several views of each image, by a name that says which."""
    views = model.test_views.name
    if not views:
        return {}
    return {f"test_error_{views}": round(float(trainer.callback_metrics[f"test/error_{views}"]), 4)}


def _cutting(model: LocalLearner) -> dict[str, Any]:
    """The backbone of a `CutNet`, and what local classifiers make up of it where it is cut; nothing of others."""
    if not isinstance(model, CutNet):
        return {}
    backbone: dict[str, Any] = {"backbone": model.hparams.get("backbone") or type(model.backbone).__name__}
    share = local_share(model.network)
    if share is None:
        return backbone
    shares = {"local_share_parameters": share.parameters, "local_share_multiply_adds": share.multiply_adds}
    return {**backbone, "strictly_local": model.strictly_local, **shares}


def _routing(model: LocalLearner) -> dict[str, Any]:
    """What a network hands on; nothing of one without capsules."""
    if not has_capsules(model):
        return {}
    network: Any = model.network
    return {**shares_of_capsules(network), "routing_mode": network.routing_mode}


def images_seen(trainer: Trainer, data: ImageDataModule) -> float:
    """Count training images over all epochs, all parts of a resumed run included.

    Args:
        trainer: Which has trained.
        data: On these images.

    Returns:
        How many, each counted as often as it was seen.
    """
    batches = trainer.num_training_batches
    images = min(batches * data.batch_size, len(data.train_dataset))
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed * images / batches
