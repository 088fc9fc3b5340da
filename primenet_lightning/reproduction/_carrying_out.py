"""Carries out the parts of a plan that are missing."""

import shutil
from dataclasses import replace
from typing import Any

from lightning.pytorch import seed_everything

from primenet_lightning.datamodules.svhn import SUBSET_FOLDER
from primenet_lightning.reproduction._plan import NEEDED, Part, Probing, extent_of
from primenet_lightning.reproduction._probed import probe
from primenet_lightning.reproduction._results import Result, Settings
from primenet_lightning.reproduction._trained import train
from primenet_lightning.reproduction._workplace import OnEpoch, Workplace

ERRORS = ("routings", "exits", "curve", "phase1_test_error", "logistic_test_error")


def conditions_of(part: Part, settings: Settings) -> dict[str, Any]:
    """Gather all that decides the result of a part, its seed apart."""
    epochs, images = extent_of(part, settings)
    conditions = {name: getattr(settings, name) for name in ("dataset", "size", "precision", "batch_size")}
    conditions |= {"epochs": epochs, "images": images}
    if isinstance(part, Probing):
        conditions |= {"phase1_epochs": settings.epochs, "probe_batch_size": settings.probe_batch_size}
    return conditions


def carry_out(part: Part, seed: int, place: Workplace, on_epoch: OnEpoch | None = None) -> Result:
    """Carry out a part with one seed, and keep what comes out; what is there already is read instead."""
    conditions = conditions_of(part, place.settings)
    place.folder.check(part.name, seed, conditions)
    result = place.folder.result(part.name, seed)
    if result is None:
        place.folder.start(part.name, seed, conditions)
        seed_everything(seed, verbose=False)
        if isinstance(part, Probing):
            result, arrays = probe(part, seed, place, on_epoch), None
        else:
            result, arrays = train(part, seed, place, on_epoch)
        if place.settings.dataset == SUBSET_FOLDER:
            result = without_errors(result)
        place.folder.keep(result, arrays)
    # only now: a part that is stopped before goes on from them
    checkpoints = place.folder.of(part.name, seed) / "checkpoints"
    if part.name in NEEDED:
        (checkpoints / "last.ckpt").unlink(missing_ok=True)
    else:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def without_errors(result: Result) -> Result:
    """Leave out what may not pass for an error on a data set's test images."""
    extra = {name: value for name, value in result.extra.items() if name not in ERRORS}
    return replace(result, test_error=None, extra=extra)
