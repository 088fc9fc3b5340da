"""What a run says of itself at the end, beside what the paper claims."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

PACKAGES = (
    "primenet-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
    "wandb",
)


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of those whose versions may change a number."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None if it runs from no checkout."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # an installed copy may lie in somebody else's repository, which does not track it
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip()


def device_in_words(device: torch.device) -> str:
    """Say what numbers are measured on.

    Args:
        device: Of the training.

    Returns:
        As ``"CPU, 2 threads, ..."``.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}{_processor()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f", {line.partition(':')[2].strip()}"
    return ""


def peak_memory_bytes() -> int | None:
    """Most memory held so far: of the GPU if one was used, else of this process; None if nobody can tell."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


ROWS = (
    ("test error (%)", "test_error", "test_error", ".2f"),
    ("test error, flips averaged (%)", "test_error_flips", "", ".2f"),
    ("test error, flips and shifts averaged (%)", "test_error_flips_shifts", "", ".2f"),
    ("test error, shifts averaged (%)", "test_error_shifts", "", ".2f"),
    ("test error, leaving early (%)", "budget_error", "", ".2f"),
    ("validation error (%)", "validation_error", "", ".2f"),
    ("tested weights", "tested_weights", "", ""),
    ("parameters", "parameters", "parameters", ","),
    ("local classifiers' share of parameters", "local_share_parameters", "", ".1%"),
    ("local classifiers' share of multiply-adds", "local_share_multiply_adds", "", ".1%"),
    ("multiply-adds, inference", "multiply_adds_inference", "multiply_adds", ","),
    ("multiply-adds, mean of the test images", "multiply_adds_taken", "", ",.0f"),
    ("multiply-adds, leaving early, mean of the test images", "budget_multiply_adds", "", ",.0f"),
    ("epochs", "epochs", "epochs", ""),
    ("training time (s)", "seconds", "", ".1f"),
)
"""What a result table says: title, key in ``summary.json``, key of the paper's claim, format."""

OPTIONAL = (
    "test_error_flips",
    "test_error_flips_shifts",
    "test_error_shifts",
    "validation_error",
    "tested_weights",
    "local_share_parameters",
    "local_share_multiply_adds",
    "multiply_adds_taken",
    "budget_error",
    "budget_multiply_adds",
)
"""Keys that not all runs have."""


def title_of(summary: Mapping[str, Any]) -> str:
    """Say which model was trained on what.

    Args:
        summary: As in ``summary.json``.

    Returns:
        The model's class, its backbone if it has one, the data set and the seed.

    Example:
        >>> title_of({"model": "CutNet", "backbone": "resnet18", "dataset": "digits", "seed": 0})
        'CutNet of resnet18 on digits, seed 0'
    """
    model = summary.get("model", "PrimeNet")
    if "backbone" in summary:
        model = f"{model} of {summary['backbone']}"
    return f"{model} on {summary['dataset']}, seed {summary['seed']}"


def result_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Say what came out, the paper's claim beside it.

    Args:
        summary: As in ``summary.json``.

    Returns:
        Rows of what, measurement, and claim, which is empty where there is none.
    """
    claims = summary.get("paper", {})
    rows = []
    for name, key, claimed, form in ROWS:
        if key in OPTIONAL and key not in summary:
            continue
        claim = ""
        if claimed in claims:
            claim = format(claims[claimed], form)
        rows.append([name, format(summary[key], form), claim])
    if "strictly_local" in summary:
        words = "yes" if summary["strictly_local"] else "no: gradients cross"
        rows.append(["strictly local", words, ""])
    return rows


def result_table(summary: Mapping[str, Any]) -> Table:
    """Say in a few lines what came out, the paper's claim beside it.

    Args:
        summary: As in ``summary.json``.

    Returns:
        A table for rich.
    """
    columns = 3 if "paper" in summary else 2
    table = Table(title=title_of(summary), title_justify="left")
    for heading, justify in (("", "left"), ("measured", "right"), ("paper's claim", "right"))[:columns]:
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in result_rows(summary):
        table.add_row(*row[:columns])
    if "routing_mode" in summary:
        words = "routed by" if "least_loss" not in summary else "what a block hands on:"
        table.caption = f"{words} {summary['routing_mode']}"
        table.caption_justify = "left"
    return table
