"""A run whose folder was deleted under it can still be gone on with."""

import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from primenet_lightning.files import write_whole


class KeepConfig(Callback):
    """Writes ``config.yaml`` anew with the next checkpoint where it is gone: without it no run is resumed.

    Args:
        path: Of the file.
        content: Of the file.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[KeepConfig("runs/first/config.yaml", "depth: 2")], logger=False)
    """

    def __init__(self, path: str | Path, content: str) -> None:
        self.path = Path(path)
        self.content = content

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Look whether the file is there."""
        if self.path.is_file():
            return
        warnings.warn(
            f"{self.path} is gone, and is written anew; what else was in its folder, such as earlier lines of "
            "metrics.csv, may be gone, too",
            stacklevel=2,
        )
        write_whole(self.path, self.content)
