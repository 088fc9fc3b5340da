"""A ready W&B workspace: what the callbacks log, in sections, for every run of a project."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from primenet_lightning.arguments import first_line
from primenet_lightning.commands.parser import CommandParser

STEP = "trainer/global_step"

SECTIONS: list[dict[str, Any]] = [
    {
        "name": "Capsule losses",
        "panels": [
            {"type": "LinePlot", "title": "training loss of each capsule and the head", "regex": "^train/loss/"},
            {"type": "LinePlot", "title": "validation loss", "regex": "^val/loss/"},
            {"type": "MediaBrowser", "title": "loss curves", "media": ["figures/losses", "figures/error_rates"]},
        ],
    },
    {
        "name": "Errors",
        "panels": [
            {"type": "LinePlot", "title": "validation error (%)", "regex": "^val/error"},
            {"type": "LinePlot", "title": "training error (%)", "regex": "^train/error"},
            {"type": "ScalarChart", "title": "test error (%)", "metric": "test/error"},
            {"type": "MediaBrowser", "title": "errors", "media": ["figures/confusion", "figures/errors"]},
        ],
    },
    {
        "name": "Routing",
        "panels": [
            {"type": "LinePlot", "title": "share of batches routed", "regex": "^routing/share/"},
            {"type": "LinePlot", "title": "share of batches with the least loss", "regex": "^routing/least_loss/"},
            {"type": "LinePlot", "title": "switches per batch", "regex": "^routing/(switches|changes)/"},
            {"type": "LinePlot", "title": "margin to the second (nats)", "regex": "^routing/margin/"},
            {"type": "MediaBrowser", "title": "routing", "media": ["figures/routing", "figures/feature_maps"]},
        ],
    },
    {
        "name": "Features",
        "panels": [
            {"type": "MediaBrowser", "title": "t-SNE", "media": ["figures/tsne"]},
            {"type": "LinePlot", "title": "silhouette in feature space", "regex": "^tsne/silhouette"},
            {"type": "LinePlot", "title": "nearest-neighbour accuracy", "regex": "^tsne/neighbour_accuracy"},
        ],
    },
]
"""What the workspace shows, by the names under which the callbacks log."""


def specification(entity: str, project: str) -> dict[str, Any]:
    """Describe the workspace in plain values.

    Args:
        entity: The W&B user or team.
        project: The W&B project; ``primenet fit`` logs to ``"primenet"``.

    Returns:
        Entity, project, name and sections, as JSON takes them.
    """
    return {"entity": entity, "project": project, "name": "PrimeNet", "step": STEP, "sections": SECTIONS}


def workspace(entity: str, project: str) -> Any:
    """Build the workspace, without saving it; no network is needed.

    Args:
        entity: The W&B user or team.
        project: The W&B project.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``.

    Raises:
        ValueError: If the package ``wandb-workspaces`` is not there.
    """
    try:
        workspaces: Any = importlib.import_module("wandb_workspaces.workspaces")
        panels: Any = importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise ValueError(
            f"the dashboard needs the package wandb-workspaces ({error}): pip install wandb-workspaces, or "
            "see what it would hold with --dry-run"
        ) from error
    make = {
        "LinePlot": lambda panel: panels.LinePlot(title=panel["title"], x=STEP, metric_regex=panel["regex"]),
        "ScalarChart": lambda panel: panels.ScalarChart(title=panel["title"], metric=panel["metric"]),
        "MediaBrowser": lambda panel: panels.MediaBrowser(title=panel["title"], media_keys=panel["media"]),
    }
    sections = []
    for section in SECTIONS:
        made = [make[panel["type"]](panel) for panel in section["panels"]]
        sections.append(workspaces.Section(name=section["name"], panels=made, is_open=True))
    return workspaces.Workspace(entity=entity, project=project, name="PrimeNet", sections=sections)


def main(args: Sequence[str]) -> int:
    """Run ``primenet dashboard``.

    Args:
        args: Command line after ``dashboard``.

    Returns:
        0, or 1 if W&B did not take the workspace.
    """
    parser = CommandParser(prog="primenet dashboard", description="Make a W&B workspace for the runs of a project.")
    entity, project = os.environ.get("WANDB_ENTITY"), os.environ.get("WANDB_PROJECT") or "primenet"
    parser.add_argument(
        "--entity", type=str, required=not entity, default=entity, help="W&B user or team; else WANDB_ENTITY."
    )
    parser.add_argument("--project", type=str, default=project, help="W&B project; else WANDB_PROJECT.")
    parser.add_argument("--dry-run", action="store_true", help="Print what it would hold; needs no network.")
    options = parser.parse_args(list(args))
    if options.dry_run:
        print(json.dumps(specification(options.entity, options.project), indent=2))
        return 0
    made = workspace(options.entity, options.project)
    try:
        made.save()
    except Exception as error:  # W&B's and the network's, of many kinds
        sentence = f"W&B did not take the dashboard ({first_line(error)}); is there an account and a network?"
        print(f"primenet: error: {sentence}", file=sys.stderr)
        return 1
    print(made.url)
    return 0
