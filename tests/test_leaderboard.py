"""The page of results: what rows must have, and that page and plots are those of the rows stored."""

import copy
import importlib.util
import re
import statistics
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tool():
    """The tool, which is in no package."""
    described = importlib.util.spec_from_file_location("docs_leaderboard", DOCS / "tools" / "leaderboard.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def run(**changes):
    row = dict(
        dataset="cifar10",
        name="A, local",
        local=True,
        parts=2,
        parameters=400_000,
        training_multiply_adds=1.5e14,
        seeds=[0, 1, 2],
        test_errors=[7.5, 7.6, 7.85],
        test_errors_flips=[7.0, 7.2, 7.3],
        views="flips",
        twin=None,
        command="primenet fit --config configs/fast/cifar10.yaml",
        commit="0123abc",
        machine="2 cores",
        hours=1.5,
        source=None,
        known=None,
    )
    return row | changes


def published(**changes):
    row = run(name="B", local=False, parts=None, seeds=[], test_errors=[7.0], test_errors_flips=[], views="")
    row |= dict(command=None, commit=None, machine=None, hours=None, source="Somebody 2020", known="figure")
    return row | changes


def test_the_page_is_that_of_the_rows_stored(tool):
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page_of(tool.read_rows())
    shown = re.findall(r"!\[[^\]]+\]\(images/leaderboard/([\w-]+)\.svg\)", tool.PAGE.read_text(encoding="utf-8"))
    assert {*shown} == {path.stem for path in tool.PLOTS.iterdir()} == {"parameters", "training"}


def test_one_command_writes_all(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "leaderboard.md")
    monkeypatch.setattr(tool, "PLOTS", tmp_path / "plots")
    tool.main()
    assert (tmp_path / "leaderboard.md").read_text(encoding="utf-8").startswith("# Leaderboard\n")
    for name in ("parameters", "training"):
        assert (tmp_path / "plots" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_row_says_mean_spread_and_ratio(tool):
    rows = [run(twin="B"), published()]
    tool.check_rows(rows)
    page = tool.page_of(rows)
    errors, flips = rows[0]["test_errors"], rows[0]["test_errors_flips"]
    cells = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in (errors, flips)]
    line = next(line for line in page.splitlines() if line.startswith("| **A, local** | locally"))
    assert line == (
        f"| **A, local** | locally | 2 | 400,000 | 1.5e+14 | {cells[0]} | {cells[1]} | "
        f"{statistics.mean(errors) / 7.0:.2f} | 3 | this repository |"
    )
    assert "| B | end to end |  | 400,000 | 1.5e+14 | 7.00 |  |  |  | Somebody 2020 (figure) |" in page
    assert page.index("| B |") < page.index("| **A, local** | locally")  # the least error first
    assert "`primenet fit --config configs/fast/cifar10.yaml` | 0123abc | 2 cores | 1.5 |" in page
    shifted = published(test_errors=[], test_errors_flips=[5.99], views="flips_shifts")
    assert "|  | 5.99, shifts too |" in tool.page_of([shifted])


def test_points_are_where_the_rows_say(tool):
    rows = [run(), published(), published(name="C", parameters=None), run(dataset="mnist", test_errors=[0.4] * 3)]
    figure = tool.plot(rows, "parameters", "parameters")
    points = {
        (axes.get_title(), float(line.get_xdata()[0]), round(float(line.get_ydata()[0]), 4), line.get_marker())
        for axes in figure.axes
        for line in axes.lines
        if len(line.get_xdata())
    }
    assert points == {
        ("CIFAR-10", 4e5, 7.65, tool.MARKERS[0]),
        ("CIFAR-10", 4e5, 7.0, tool.MARKERS[3]),
        ("MNIST", 4e5, 0.4, tool.MARKERS[0]),
    }


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (run(commit=None), "'A, local' has no commit"),
        (run(test_errors=[7.5]), r"has 1 test_errors of 3 seeds; give one a seed"),
        (run(test_errors=[], test_errors_flips=[], views=""), "has no test error"),
        (run(views=""), r"has views='' and test_errors_flips=\[7.0"),
        (run(dataset="cifar100"), "has dataset='cifar100'; give one of"),
        (run(twin="nobody"), "twin='nobody', but a twin is the end-to-end row of a local one"),
        (run(known="code"), "has known='code' beside command"),
        (published(known="hearsay"), "has known='hearsay'; give one of"),
        (published(hours=2), "has hours=2 beside source"),
    ],
)
def test_rows_that_say_too_little_or_too_much_are_refused(tool, row, sentence):
    with pytest.raises(ValueError, match=sentence):
        tool.check_rows([row])


def test_keys_and_names_are_as_told(tool):
    lacking = copy.copy(run())
    del lacking["hours"]
    with pytest.raises(ValueError, match=r"has other keys than it should: \['hours'\]"):
        tool.check_rows([lacking])
    with pytest.raises(ValueError, match="two rows of one data set have one name"):
        tool.check_rows([run(), run()])
