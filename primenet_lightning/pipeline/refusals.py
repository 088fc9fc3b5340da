"""What cannot work in a pipeline, said before anything runs."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from primenet_lightning.training.learner import LocalLearner


def refuse_processes(processes: int, replicas: int) -> None:
    """Refuse replicas that do not divide the processes.

    Args:
        processes: How many there are.
        replicas: How many have the same stages.

    Raises:
        ValueError: If they do not.
    """
    if processes % replicas:
        raise ValueError(
            f"LocalPipeline(replicas={replicas}) does not divide {processes} processes; use a number of devices that "
            f"is a multiple of {replicas}"
        )


def refuse_trainer(trainer: Trainer) -> None:
    """Refuse what would tie the stages to each other at every batch, or look at all of them.

    Args:
        trainer: The Trainer.

    Raises:
        ValueError: For fp16 with a scaler, synchronised batch norm, a time limit that is looked at after every batch,
            and callbacks that look at the whole network.
    """
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(
            f"precision={trainer.precision!r} scales the losses of all stages by one factor, which a pipeline would "
            "have to agree on at every batch; use precision='bf16-mixed'"
        )
    if getattr(trainer.strategy, "_layer_sync", None) is not None:
        raise ValueError(
            "sync_batchnorm=True takes the statistics of batch norm over replicas, which a pipeline does not do; leave "
            "it out, or use strategy='ddp'"
        )
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Timer) and callback._duration is not None and callback._interval == "step":
            raise ValueError(
                "max_time is looked at after every batch, for which all stages would have to wait; use max_epochs or "
                "max_steps, or the callback Timer(duration, interval='epoch')"
            )
        if getattr(callback, "needs_whole_network", False):
            raise ValueError(
                f"callbacks has a {type(callback).__name__}, which looks at the whole network, of which each process "
                "of a pipeline has a part; leave it out (--figures false), and look at a checkpoint of the run after it"
            )


def refuse_model(model: LightningModule) -> None:
    """Refuse a model that is no row of stages, or whose stages need numbers of others.

    Args:
        model: To be trained.

    Raises:
        ValueError: If it is no `LocalLearner`, is trained end to end, would draw random numbers in the order of one
            process, or would choose a route by trying all.
    """
    if not isinstance(model, LocalLearner):
        raise ValueError(
            f"strategy='local_pipeline' divides the stages of a LocalLearner, and {type(model).__name__} is none; use "
            "strategy='ddp'"
        )
    if model.keyed_random is False:
        raise ValueError(
            "keyed_random=False draws random numbers in the order of one process, which stages in several cannot; use "
            "True, or leave it out"
        )
    if getattr(model, "inference_routing", None) == "best_validation":
        raise ValueError(
            "inference_routing='best_validation' tries all joint routes, for which all blocks would have to be in one "
            "process; use 'majority'"
        )
