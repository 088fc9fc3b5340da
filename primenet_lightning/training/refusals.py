"""What is refused before it can do harm, each in one sentence with its remedy."""

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.strategies.xla import XLAStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.compile import to_uncompiled
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from primenet_lightning.arguments import at_least
from primenet_lightning.training.runner import Rhythm


def refuse_strategy(strategy: Strategy) -> None:
    """Check that a strategy leaves gradients and parameters whole.

    Args:
        strategy: The Trainer's.

    Raises:
        ValueError: For FSDP, DeepSpeed, model parallelism, XLA, and for options of DDP about its own averages.
    """
    name = type(strategy).__name__
    if isinstance(strategy, SingleDeviceStrategy):
        return
    if not isinstance(strategy, DDPStrategy) or isinstance(strategy, DeepSpeedStrategy | XLAStrategy):
        raise ValueError(
            f"strategy={name} splits up what local learning needs whole; use Trainer(strategy='ddp'), whose memory "
            "does not grow with depth here, because each block is freed after its own backward"
        )
    for option, value in (
        ("ddp_comm_hook", strategy._ddp_comm_hook),
        ("model_averaging_period", strategy._model_averaging_period),
        ("static_graph", strategy._ddp_kwargs.get("static_graph") or None),
    ):
        if value is not None:
            raise ValueError(
                f"{name}({option}=...) changes how DDP averages gradients, which the engine does itself, once a step; "
                "use strategy='ddp' without it"
            )


def refuse_divided(network: nn.Module) -> None:
    """Refuse a network whose stages were given to several processes, outside of them.

    Args:
        network: Of a model.

    Raises:
        ValueError: If parameters have no memory here.
    """
    for name, parameter in network.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"{name} is on the meta device, as a pipeline leaves the stages of other processes; load the whole "
                "model from a checkpoint, with load_from_checkpoint"
            )


AVERAGES: tuple[type[Callback], ...] = (WeightAveraging, StochasticWeightAveraging)
"""Lightning's callbacks that average weights."""


def refuse_automatic_options(trainer: Trainer, model: LightningModule) -> None:
    """Refuse what Lightning would do in the course of a step, or to the weights: the engine has its own ways for it.

    Args:
        trainer: The Trainer.
        model: To be trained.

    Raises:
        ValueError: For ``gradient_clip_val`` and ``accumulate_grad_batches`` of the Trainer, for Lightning's callbacks
            that average weights or accumulate gradients, and for a model that was compiled as a whole.
    """
    name = type(model).__name__
    if trainer.gradient_clip_val:
        value = trainer.gradient_clip_val
        raise ValueError(
            f"Trainer(gradient_clip_val={value}) would clip all learners together; use "
            f"{name}(gradient_clip_val={value}), which clips each by itself"
        )
    if trainer.accumulate_grad_batches != 1:
        value = trainer.accumulate_grad_batches
        raise ValueError(
            f"Trainer(accumulate_grad_batches={value}) knows nothing of the learners' own steps; use "
            f"{name}(accumulate_grad_batches={value})"
        )
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, AVERAGES):
            raise ValueError(
                f"callbacks has a {type(callback).__name__}, which would average the weights, but not the route that "
                "belongs to them; use AveragedWeights of primenet_lightning.callbacks"
            )
        if isinstance(callback, GradientAccumulationScheduler):
            raise ValueError(
                f"callbacks has a GradientAccumulationScheduler, whose schedule would be ignored; use "
                f"{name}(accumulate_grad_batches=...)"
            )
    if getattr(model, "_compiler_ctx", None) is not None:
        to_uncompiled(model)  # it is the user's own
        raise ValueError(
            "torch.compile(model) would compile the training step with its backward passes, which cannot be done; fit "
            "the model itself, and compile its parts, as `for capsule in block.capsules.values(): capsule.compile()`"
        )


def refuse_trainer(trainer: Trainer, stage: str, rhythm: Rhythm) -> None:
    """Check that a Trainer leaves to the engine what is the engine's.

    Args:
        trainer: The Trainer.
        stage: Lightning's: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        rhythm: How often the engine goes backward, exchanges and steps.

    Raises:
        ValueError: For a strategy that splits up parameters or gradients, and for scaled losses that are stepped on
            stage by stage.
    """
    refuse_strategy(trainer.strategy)
    if stage == "fit" and trainer.precision in ("bf16-true", "16-true"):
        rank_zero_warn(
            f"precision={trainer.precision!r} keeps weights and optimizer states in half precision, where small steps "
            "are rounded away (Adam's second moment hardly moves); 'bf16-mixed' computes as fast and learns as float32 "
            "does"
        )
    if rhythm.step == "stage" and getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(
            "step='stage' cannot scale fp16 losses, whose factor changes once a batch; use step='batch' or "
            "precision='bf16-mixed'"
        )


def refuse_synchronized_norms(trainer: Trainer, network: nn.Module) -> None:
    """Check that torch can put synchronised batch norms into the place of all others, where they are asked for.

    Args:
        trainer: The Trainer.
        network: To be trained.

    Raises:
        ValueError: If a batch norm has a weight that is no parameter, which torch's cannot take over.
    """
    if getattr(trainer.strategy, "_layer_sync", None) is None:
        return
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and isinstance(module._buffers.get("weight"), Tensor):
            raise ValueError(
                f"sync_batchnorm=True cannot take over {name}, a {type(module).__name__}, whose weight does not learn; "
                "leave sync_batchnorm out"
            )


def refuse_options(
    lr: float | None,
    scheduler_interval: str,
    schedule: str | None,
    schedulers: tuple[Any, ...],
    step: str,
    accumulate_grad_batches: int,
    gradient_clip_val: float | None,
) -> None:
    """Check options of learning that are impossible, alone or together.

    Args:
        lr: Learning rate of all learners.
        scheduler_interval: What schedules count.
        schedule: A schedule for all optimizers, by name.
        schedulers: What makes schedules of single optimizers.
        step: How often the engine steps.
        accumulate_grad_batches: Batches a step.
        gradient_clip_val: Largest norm of a learner's gradient.

    Raises:
        ValueError: For the first that is impossible.
    """
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr={lr} must be positive and finite, or None for what the optimizers begin with")
    if scheduler_interval not in ("epoch", "step"):
        raise ValueError(f"scheduler_interval={scheduler_interval!r} is unknown; use 'epoch' or 'step'")
    if schedule is not None and any(schedulers):
        raise ValueError(
            f"schedule={schedule!r} is for all optimizers, but a scheduler of single ones (capsule_scheduler, "
            "head_scheduler) is given; use either"
        )
    at_least(1, accumulate_grad_batches=accumulate_grad_batches)
    if gradient_clip_val is not None and not gradient_clip_val > 0:
        raise ValueError(f"gradient_clip_val={gradient_clip_val} must be positive, or None not to clip")
    if step == "stage" and accumulate_grad_batches > 1:
        raise ValueError(
            f"step='stage' steps after every stage and accumulate_grad_batches={accumulate_grad_batches} does not; use "
            "step='batch'"
        )


def refuse_architecture(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Compare the parameters of a checkpoint with those of a model.

    Args:
        saved: The checkpoint's ``state_dict``.
        present: The model's.

    Raises:
        ValueError: For the first name or shape that differs.
    """
    remedy = "build the model with the options of the run that saved it, or start a new run"
    for names, others, there in ((saved, present, "in the checkpoint, but not in the model"), (present, saved, "")):
        for name in names:
            if name not in others:
                raise ValueError(
                    f"the checkpoint is of another architecture: {name} is "
                    f"{there or 'in the model, but not in the checkpoint'}; {remedy}"
                )
    for name, value in saved.items():
        here = present[name]
        # extra state, such as the routes taken so far, may have any length
        if isinstance(value, Tensor) and not name.endswith("_extra_state") and value.shape != here.shape:
            raise ValueError(
                f"the checkpoint is of another architecture: {name} has shape {tuple(value.shape)} there and "
                f"{tuple(here.shape)} in the model; {remedy}"
            )


def refuse_classes(saved: Mapping[str, Any] | None, present: Mapping[str, Any] | None) -> None:
    """Compare the class names of a checkpoint with those of the data.

    Args:
        saved: Description of the data that the checkpoint was trained on, or None.
        present: Description of the data at hand, or None.

    Raises:
        ValueError: If they differ.
    """
    if saved is None or present is None:
        return
    there, here = list(saved["class_names"]), list(present["class_names"])
    if there != here:
        raise ValueError(
            f"the checkpoint was trained on {saved['dataset']} with the classes {_few(there)}, but "
            f"{present['dataset']} has {_few(here)}; use the data it was trained on, or start a new run"
        )


def description_of(trainer: Trainer, datamodule: LightningDataModule | None = None) -> dict[str, Any] | None:
    """Ask a data module what its data are.

    Args:
        trainer: The Trainer, whose data module is asked where none is given.
        datamodule: The data module.

    Returns:
        Its description; None without a data module that has one.
    """
    datamodule = getattr(trainer, "datamodule", None) if datamodule is None else datamodule
    describe = getattr(datamodule, "description", None)
    return None if describe is None else describe()


def refuse_data(
    described: Mapping[str, Any], datamodule: str, in_shape: tuple[int, int, int], num_classes: int, model: str
) -> None:
    """Compare the images and classes that a model was built for with those of a data module.

    Args:
        described: The data module's description of its data.
        datamodule: The data module's class, for the sentence.
        in_shape: Channels, height and width of the model's images.
        num_classes: The model's number of classes.
        model: The model's class, for the sentence.

    Raises:
        ValueError: For the first that differs.
    """
    for name, built in (
        ("in_channels", in_shape[0]),
        ("image_size", list(in_shape[1:])),
        ("num_classes", num_classes),
    ):
        if described[name] != built:
            raise ValueError(
                f"the model was built with {name}={built}, but {datamodule} has {described[name]}; "
                f"build it with {model}({name}=datamodule.{name})"
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
