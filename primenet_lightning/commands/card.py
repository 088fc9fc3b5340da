"""``primenet card``: the model card of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.files import write_whole
from primenet_lightning.runs.card import FIRST, StoredWeights, card_of
from primenet_lightning.runs.folder import RunFolder

if TYPE_CHECKING:
    from primenet_lightning.training.learner import LocalLearner


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Command line after ``card``.

    Returns:
        0.

    Raises:
        FileExistsError: If the file asked for exists.
        FileNotFoundError: If the folder is no run's.
        ValueError: If the run has not finished.
    """
    options = _parser().parse_args(list(args))
    run = RunFolder.existing(options.run)
    out = run.card
    if options.out is not None:
        out = Path(options.out).expanduser()
        if out.exists():
            raise FileExistsError(f"out={options.out} exists already and is not overwritten; give another name")
    if not run.is_finished:
        raise ValueError(
            f"{run.path} has no summary.json: the run has not finished; go on with it (--resume {run.path})"
        )
    stored = None
    if options.weights is None:
        description = _description_of(run)
        name = options.name
    else:
        description, stored = _measured(run, Path(options.weights).expanduser())
        name = options.name or Path(options.weights).resolve().name
    print(write_whole(out, card_of(run, description, name, options.licence, stored)))
    return 0


def _description_of(run: RunFolder) -> dict[str, Any]:
    """What the run's best checkpoint knows of its data."""
    from primenet_lightning.analysis.prediction import load_model  # loads Lightning, which takes a while

    description = load_model(run.best).data_description
    assert description is not None
    return description


def _measured(run: RunFolder, folder: Path) -> tuple[dict[str, Any], StoredWeights]:
    """Stored weights on the run's test images, computed with in float32."""
    from primenet_lightning.analysis.answering import data_of, wrong_answers_of
    from primenet_lightning.models.pretrained import Pretrained
    from primenet_lightning.models.pretrained_config import WEIGHTS

    model: LocalLearner = Pretrained.from_pretrained(folder)
    dtype = str(model.dtype).removeprefix("torch.")
    data = data_of(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    data.prepare_data()
    data.setup("test")
    test = data.test_dataset
    wrong = wrong_answers_of(model.float(), test.images, test.labels)
    description = model.data_description
    assert description is not None
    size = (folder / WEIGHTS).stat().st_size
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return description, StoredWeights(size, dtype, parameters, len(wrong), int(wrong.sum()), int(wrong[:FIRST].sum()))


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="primenet card",
        description="Write the model card of a run: data, recipe, error with its interval, cost, limits, licence.",
    )
    parser.add_argument("run", type=str, help="Run folder of a finished run.")
    parser.add_argument(
        "--out", type=str | None, default=None, help="File to write, of Markdown. Default: card.md in the run folder."
    )
    parser.add_argument("--name", type=str | None, default=None, help="Of the network. Default: the folder's.")
    parser.add_argument(
        "--licence", type=str | None, default=None, help="Of the weights, such as MIT. Default: none is stated."
    )
    parser.add_argument(
        "--weights",
        type=str | None,
        default=None,
        help="Folder of save_pretrained, made of this run, that the card is to go with: it is measured on the run's "
        "test images.",
    )
    return parser
