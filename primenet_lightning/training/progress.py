"""How long a fit is, for what is laid out over it: schedules, phases, condensation."""

from lightning.pytorch import Trainer


def refuse_endless(trainer: Trainer, what: str) -> None:
    """Refuse a fit whose end nobody knows, before it begins.

    Args:
        trainer: The Trainer.
        what: Needs to know, for the sentence: ``"schedule='cosine'"``.

    Raises:
        ValueError: If it has neither ``max_epochs`` nor ``max_steps``.
    """
    if (trainer.max_epochs or -1) < 0 and trainer.max_steps < 0:
        raise _endless(trainer, what)


def refuse_other_length(what: str, before: int, now: int) -> None:
    """Refuse to go on where what is laid out over a fit would be laid out anew.

    Args:
        what: Is laid out, for the sentence: ``"the phases"``.
        before: Optimizer steps of the fit that is resumed; 0 where it did not lay anything out.
        now: Optimizer steps of this fit.

    Raises:
        ValueError: If these are others.
    """
    if before not in (0, now):
        raise ValueError(
            f"{what} of the run that is resumed were laid out over {before} optimizer steps, and this fit has {now}; "
            "resume with the same max_epochs and batches, or start a new run"
        )


def steps_of_fit(trainer: Trainer, what: str, window: int = 1, start: int = 0) -> int:
    """Tell how many optimizer steps a fit has.

    Args:
        trainer: The Trainer, in a fit.
        what: Needs to know, for the sentence.
        window: Batches an optimizer step.
        start: Optimizer steps that this Trainer had done before, in a fit that is over.

    Returns:
        Optimizer steps of the whole fit, without those.

    Raises:
        ValueError: If the fit has no end.
    """
    has_data = trainer.fit_loop._combined_loader is not None
    steps = trainer.estimated_stepping_batches
    if not has_data:
        # it sets the data up before a resumed run's place in them is restored, which Lightning would then leave out
        trainer.fit_loop._combined_loader = None
    if not 0 < steps < float("inf"):
        raise _endless(trainer, what)
    epochs = trainer.max_epochs or 0
    if window > 1 and epochs > 0:
        # counted here, since the Trainer knows nothing of windows
        windows = -(-int(trainer.num_training_batches) // window) * epochs
        steps = min(windows, trainer.max_steps) if trainer.max_steps > 0 else windows
    # a fit with nothing left to do ends before its first step
    return int(steps) - start if steps > start else int(steps)


def _endless(trainer: Trainer, what: str) -> ValueError:
    return ValueError(
        f"{what} needs to know its end, and this fit has none (max_epochs={trainer.max_epochs}, "
        f"max_steps={trainer.max_steps}); set either"
    )
