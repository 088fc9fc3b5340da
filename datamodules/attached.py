"""What a data module has to know of the Trainer that it is attached to."""

import torch
from lightning.pytorch import Trainer


def ranks_of(trainer: Trainer | None) -> tuple[int, int]:
    """Tell among how many processes batches are shared out, and which of them this is.

    Args:
        trainer: None where a data module is used by itself.

    Returns:
        Their number, and the rank of this one.

    Example:
        >>> ranks_of(None)
        (1, 0)
    """
    if trainer is None:
        return 1, 0
    shares = getattr(trainer, "distributed_sampler_kwargs", None) or {}  # in a pipeline fewer than processes
    return shares.get("num_replicas", trainer.world_size), shares.get("rank", trainer.global_rank)


def batches_done_by(trainer: Trainer | None) -> int:
    """Tell how many batches of the epoch a Trainer has trained on.

    Args:
        trainer: None where a data module is used by itself.

    Returns:
        0 when the epoch is over.

    Example:
        >>> batches_done_by(None)
        0
    """
    if trainer is None:
        return 0
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return done if done < trainer.num_training_batches else 0


def gpu_of(trainer: Trainer | None) -> torch.device | None:
    """Tell to which GPU of CUDA batches go.

    Batches for one should lie in page-locked memory. From there a copy runs beside what the processor does next; from
    other memory the processor waits for it.

    Args:
        trainer: None where a data module is used by itself.

    Returns:
        None where they go to no such GPU.

    Example:
        >>> gpu_of(None) is gpu_of(Trainer(accelerator="cpu", logger=False)) is None
        True
    """
    if trainer is None or trainer.strategy.root_device.type != "cuda":
        return None
    return trainer.strategy.root_device
