"""What is refused before it can do harm, each in one sentence with its remedy."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.strategies.xla import XLAStrategy
from torch import Tensor


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
                f"{name}({option}=...) changes how DDP averages gradients, which PrimeNet does itself, once a step; "
                "use strategy='ddp' without it"
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
        mine = present[name]
        # extra state, such as the routes taken so far, may have any length
        if isinstance(value, Tensor) and not name.endswith("_extra_state") and value.shape != mine.shape:
            raise ValueError(
                f"the checkpoint is of another architecture: {name} has shape {tuple(value.shape)} there and "
                f"{tuple(mine.shape)} in the model; {remedy}"
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
    for name, mine in (
        ("in_channels", in_shape[0]),
        ("image_size", list(in_shape[1:])),
        ("num_classes", num_classes),
    ):
        if described[name] != mine:
            raise ValueError(
                f"the model was built with {name}={mine}, but {datamodule} has {described[name]}; "
                f"build it with {model}({name}=datamodule.{name})"
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
