"""Options of the Trainer that a run cannot have: refused before anything is written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args, get_type_hints

from lightning.pytorch import Trainer

from primenet_lightning.arguments import first_line

OF_THE_MACHINE = {"accelerator": "auto", "strategy": "auto", "devices": "auto", "num_nodes": 1, "precision": None}
"""Options that a machine may not have, and their defaults."""


def refuse_trainer_options(options: Mapping[str, Any]) -> None:
    """Refuse options under which a run has no results, or which nobody follows.

    Args:
        options: The Trainer's, as the user gave them.

    Raises:
        ValueError: For the first.

    Example:
        >>> refuse_trainer_options({"barebones": False, "model_registry": "mine"})
        Traceback (most recent call last):
        ...
        ValueError: trainer.model_registry=mine needs litmodels, which a run does not use; leave it out
    """
    if options["barebones"]:
        raise ValueError(
            "trainer.barebones=True leaves out loggers, checkpoints and callbacks, of which a run consists; leave it "
            "out, or measure speed in Python with Trainer(barebones=True)"
        )
    for name, kind in get_type_hints(Trainer.__init__).items():
        if name in options and options[name] is None and type(None) not in get_args(kind):
            raise ValueError(f"trainer.{name}=null cannot be taken; give a value, or leave it out")
    if options["model_registry"] is not None:
        name = options["model_registry"]
        raise ValueError(f"trainer.model_registry={name} needs litmodels, which a run does not use; leave it out")


@contextmanager
def refused_by_trainer(options: Mapping[str, Any]) -> Iterator[None]:
    """Say in a sentence which options the Trainer refuses, and why.

    Args:
        options: The Trainer's.

    Yields:
        Nothing.

    Raises:
        ValueError: For whatever is raised inside.
    """
    try:
        yield
    except Exception as error:  # each kind of mistake has its own
        reason = first_line(error).partition(". ")[0].rstrip(".!")
        named = [name for name in options if name not in OF_THE_MACHINE and f"{name}`" in reason]
        remedy = "give another value, or leave it out"
        if not named:
            named = [name for name in OF_THE_MACHINE if options[name] != OF_THE_MACHINE[name]]
            remedy = "give what this machine has, or auto for accelerator, strategy and devices"
        given = " with ".join(f"trainer.{name}={options[name]}" for name in named)
        raise ValueError(f"{given or 'a Trainer like that'} cannot be had: {reason}; {remedy}") from error
