"""Checkpoint files that are whole or not there."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and then renames it, so that a crash leaves the old one or the new one.

    Lightning's own goes through the temporary folder, from where a move to another file system is a copy, which a
    crash can cut short. `PrimeNet` puts this one in place of Lightning's default; paths with a protocol
    (``s3://...``) it leaves to that.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, f"{folder}/it.ckpt")
        ...     print(os.listdir(folder), AtomicCheckpointIO().load_checkpoint(f"{folder}/it.ckpt"))
        ['it.ckpt'] {'state_dict': {}}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Its content.
            path: The file.
            storage_options: Not used, as in Lightning's own.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # or after a power cut the name may have come before the content
        beside.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: The file.
            map_location: As in ``torch.load``.
            weights_only: Likewise; None means yes: nothing in a checkpoint of PrimeNet needs more.

        Returns:
            Its content.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint, or not a whole one.
        """
        try:
            loaded = super().load_checkpoint(path, map_location, weights_only is not False)
        except OSError:
            raise  # not there, or not to be read by this user
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"checkpoint {path} cannot be read with weights_only=True ({_first_line(error)}): it holds more than "
                "tensors and numbers, as the state of a callback of your own may; save such things as tensors"
            ) from error
        except Exception as error:  # each kind of damage has its own
            raise ValueError(
                f"checkpoint {path} cannot be read ({_first_line(error)}): it is damaged or no "
                "checkpoint; use another one, such as best.ckpt beside it"
            ) from error
        if not isinstance(loaded, dict) or "state_dict" not in loaded:
            raise ValueError(f"{path} is no checkpoint of a LightningModule: it has no state_dict; use another file")
        return loaded


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def use_atomic_checkpoints(strategy: Strategy) -> None:
    """Put an `AtomicCheckpointIO` in place of Lightning's default; what a user chose stays.

    Args:
        strategy: The Trainer's.
    """
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
