"""Checkpoints of what is left of a network when its training is over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.runs.folder import checkpoint_in
from primenet_lightning.training.checkpoint_files import read_checkpoint, write_checkpoint

KEPT = ("epoch", "global_step", "pytorch-lightning_version", "primenet_format", "data_description")
"""Entries of a checkpoint that hold for what is exported, too."""


@runtime_checkable
class Exportable(Protocol):
    """A model of which another one is left when its training is over."""

    def exported(self) -> EndToEnd:
        """Give the model that is left."""
        ...


def export(checkpoint: str | Path, path: str | Path, description: Mapping[str, Any] | None = None) -> Path:
    """Write a checkpoint of what is left of a model: a `CondenseNet` converted, or the target network of `OneNet`.

    It is for prediction and tests, ``primenet predict --ckpt``, and begins a fit like any other; the fit that it comes
    from goes on from its own checkpoint.

    Args:
        checkpoint: A checkpoint file, or the folder of a run, whose best one is taken.
        path: Of the new checkpoint.
        description: As in `primenet_lightning.analysis.prediction.load_model`.

    Returns:
        The path.

    Raises:
        ValueError: If nothing would be another than it is, or the model has not learned long enough.

    Example:
        >>> export("runs/condensenet", "condensed.ckpt")  # doctest: +SKIP
    """
    model = load_model(checkpoint, description)
    if not isinstance(model, Exportable):
        raise ValueError(
            f"ckpt={checkpoint} is of a {type(model).__name__}, which predicts as it was trained; there is nothing to "
            "export"
        )
    exported = model.exported()
    saved = read_checkpoint(checkpoint_in(checkpoint))
    entries = {name: saved[name] for name in KEPT if name in saved}
    entries["data_description"] = model.data_description
    entries["class_path"] = f"{type(exported).__module__}.{type(exported).__qualname__}"
    entries["hyper_parameters"] = dict(exported.hparams)
    entries["state_dict"] = exported.state_dict()
    write_checkpoint(entries, path)
    return Path(path)
