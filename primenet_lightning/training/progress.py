"""How far a fit has come, for what changes on the way."""

from lightning.pytorch import Trainer


def refuse_endless(trainer: Trainer, what: str) -> None:
    """Refuse a fit whose end nobody knows.

    Args:
        trainer: The Trainer.
        what: What goes by the share of the fit that is done, for the sentence.

    Raises:
        ValueError: If it has neither ``max_epochs`` nor ``max_steps``.
    """
    epochs = trainer.max_epochs or -1
    if epochs < 0 and trainer.max_steps < 0:
        raise ValueError(
            f"{what} goes by the share of the fit that is done, and this fit has no end (max_epochs={epochs}, "
            f"max_steps={trainer.max_steps}); set either"
        )


def progress_of_fit(trainer: Trainer, batch_idx: int) -> float:
    """Tell which share of a fit is done before a batch. It is the same on all processes, and after resuming.

    Args:
        trainer: In a fit that has an end, see `refuse_endless`.
        batch_idx: Index of the batch in the epoch.

    Returns:
        From 0 to 1: of the epochs, or of the optimizer steps where ``max_steps`` ends the fit before.
    """
    done = 0.0
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        done = (trainer.current_epoch + batch_idx / trainer.num_training_batches) / trainer.max_epochs
    if trainer.max_steps > 0:
        done = max(done, trainer.global_step / trainer.max_steps)
    return done
