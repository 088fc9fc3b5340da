"""What benchmarks share whose trainings are runs of the command, each in a folder of its own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primenet_lightning.commands import main as command


def folder_name(name: str, limit: int | None, epochs: int, seed: int) -> str:
    """Name the folder of a training by all that decides it."""
    images = "all" if limit is None else str(limit)
    return f"{name.replace(',', '').replace(' ', '_')}-{images}-{epochs}-{seed}"


def arguments_of(
    options: Mapping[str, str], folder: Path, root: str, epochs: int, limit: int | None, seed: int
) -> list[str]:
    """Give what comes behind ``primenet fit`` to begin a training.

    Args:
        options: Of the command, in their order; its own follow.
        folder: Of the run.
        root: Of the data.
        epochs: How many.
        limit: Training images; a tenth of all is then held out to choose by. None for all.
        seed: Of everything random.

    Returns:
        The arguments.
    """
    all_options = {
        **options,
        "seed_everything": str(seed),
        "trainer.max_epochs": str(epochs),
        "data.root": root,
        "run": str(folder),
        "figures": "false",
        "every_n_train_steps": "50",
        "trainer.enable_progress_bar": "false",
    }
    if limit is not None:
        all_options |= {"data.limit_train": str(limit), "data.validation_fraction": "0.1"}
    arguments: list[str] = []
    for name, value in all_options.items():
        arguments += [f"--{name}", value]
    return arguments


def carry_out(folder: Path, arguments: Sequence[str]) -> None:
    """Train and test, or go on with what was broken off; what is finished is left as it is.

    Args:
        folder: Of the run.
        arguments: Behind ``primenet fit``, to begin it.

    Raises:
        SystemExit: If the command fails, which has said why.
    """
    if is_finished(folder):
        return
    if (folder / "checkpoints" / "last.ckpt").exists():
        code = command.main(["fit", "--resume", str(folder)])
    else:
        code = command.main(["fit", *arguments])
    if code:
        raise SystemExit(code)


def is_finished(folder: Path) -> bool:
    """Tell whether a training has been tested."""
    return (folder / "summary.json").exists()


def summary_of(folder: Path) -> dict[str, Any]:
    """Read what a finished training came to."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary
