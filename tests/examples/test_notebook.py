"""The notebook is kept with the outputs of one run, and its code runs from top to bottom, without Jupyter."""

import json
import re
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

PATH = Path(__file__).parents[2] / "examples" / "digits.ipynb"
NOTEBOOK = json.loads(PATH.read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """What the notebook's names stand for after its last cell, of two epochs; and what it has printed."""
    matplotlib.use("Agg")
    folder = tmp_path_factory.mktemp("notebook")
    names, printed = {}, []
    names["print"] = lambda *values: printed.append(" ".join(map(str, values)))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        shortened = 0
        for number, cell in enumerate(CODE):
            source, count = re.subn(r"EPOCHS = \d+", "EPOCHS = 2", "".join(cell["source"]))
            shortened += count
            exec(compile(source, f"code cell {number}", "exec"), names)
        matplotlib.pyplot.close("all")
    assert shortened == 1
    return names | {"printed": printed, "folder": folder}


def test_it_is_a_notebook_with_the_outputs_of_one_run():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    text = PATH.read_text()
    assert len(text) < 250_000
    assert "/home/" not in text
    assert "/work/" not in text


def test_what_it_printed_is_what_it_prints(notebook):
    """But for the numbers of a training, which is shorter here."""
    stored = "".join(
        "".join(output["text"]) for cell in CODE for output in cell["outputs"] if output["output_type"] == "stream"
    )
    kept, printed = stored.splitlines(), notebook["printed"]
    assert len(kept) == len(printed)
    assert kept[:3] == printed[:3]
    assert kept[-1] == printed[-1]
    assert [line.split()[0] for line in kept[4:10]] == [line.split()[0] for line in printed[4:10]]


def test_every_loss_falls(notebook):
    (_, first), *_, (_, last) = notebook["curves"].epochs
    assert first.keys() == {*notebook["model"].network.loss_names, "total"}
    assert all(last[name] < first[name] for name in first)


def test_figures_are_drawn(notebook):
    figures = notebook["folder"] / notebook["FOLDER"] / "figures"
    assert {"losses.png", "routing.png", "tsne.png"} <= {path.name for path in figures.iterdir()}


def test_errors_are_those_of_the_model_run_by_hand(notebook):
    """Each capsule fixed in turn, and the default, without the Trainer."""
    model, data = notebook["model"].eval(), notebook["data"]
    block = model.network.prime_blocks[0]

    def error(dataset, index):
        images, labels = dataset[torch.arange(len(dataset))]
        x = data.normalize(images)
        with torch.no_grad():
            maps = block.in_order[index].features(x), block.projection(x)
            return float(100 * (model.network.head(torch.cat(maps, 1)).argmax(1) != labels).float().mean())

    by_hand = [error(data.validation_dataset, index) for index in range(3)]
    route = block.router.settled or model.network.history.majority()[0]
    errors = notebook["errors"]
    assert [errors[index] for index in range(3)] == pytest.approx(by_hand)
    assert errors["majority"] == pytest.approx(by_hand[route])
    assert notebook["results"]["test/error"] == pytest.approx(error(data.test_dataset, route))
    assert errors["majority"] < 60  # guessing: 90
    assert list(errors) == ["majority", 0, 1, 2, "min_entropy", "oracle"]


def test_it_ends_with_the_models_predictions(notebook):
    answers, truth = ([int(digit) for digit in re.findall(r"\d", line)] for line in notebook["printed"][-2:])
    assert truth == notebook["labels"].tolist()
    assert np.mean([answer == label for answer, label in zip(answers, truth, strict=True)]) > 0.2
