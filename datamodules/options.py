"""The options that all data modules have: what is refused of them."""

from primenet_lightning.arguments import at_least


def check_options(
    batch_size: int,
    eval_batch_size: int,
    validation_fraction: float,
    seed: int,
    normalization: str,
    limit_train: int | None,
) -> None:
    """Refuse options that are out of their range.

    Args:
        batch_size: Images in a training batch.
        eval_batch_size: Images in an evaluation batch.
        validation_fraction: Share of the training images held out.
        seed: Of the split and the order.
        normalization: By name.
        limit_train: Training images at most; None for all.

    Raises:
        ValueError: For the first that is out of its range.
    """
    at_least(1, "image", batch_size=batch_size, eval_batch_size=eval_batch_size)
    if limit_train is not None:
        at_least(1, "image, or None for all", limit_train=limit_train)
    if validation_fraction != 0:
        check_fraction("validation_fraction", validation_fraction)
    check_seed(seed=seed)
    if normalization not in ("symmetric", "standardize"):
        raise ValueError(f"normalization={normalization!r} is unknown; give 'symmetric' or 'standardize'.")


def refuse_to_validate(validation_fraction: float) -> None:
    """Refuse a validation without images. A fit does without; whoever asks for a validation alone is told.

    Args:
        validation_fraction: That leaves no images.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"validation_fraction={validation_fraction} leaves no validation images; test instead, or give the fraction "
        "that the network was not trained on"
    )


def check_fraction(name: str, fraction: float) -> None:
    """Refuse a share that is none.

    Args:
        name: Of the argument.
        fraction: Its value.

    Raises:
        ValueError: Unless it lies between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"{name}={fraction} is out of range; give a value between 0 and 1, such as 0.1.")


def check_seed(**seed: int) -> None:
    """Refuse a seed that not every generator takes.

    Args:
        **seed: One, by the name of its argument.

    Raises:
        ValueError: If it is below 0, or too large.
    """
    ((name, value),) = seed.items()
    if not 0 <= value < 2**32:
        raise ValueError(f"{name}={value} is out of range; give a whole number from 0 to 2**32 - 1.")
