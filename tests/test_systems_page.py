"""The page on the systems of table 2 says what is stored of them."""

import json
import re
import statistics
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
EXITS = ("MSDNet, sum", "MSDNet, equilibrium", "IMTA")


@pytest.fixture(scope="module")
def stored():
    return json.loads((DOCS / "results" / "systems.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def by_name(stored):
    return {row["name"]: row for row in stored["rows"]}


def table(head):
    """Cells below the head that begins so, by the first cell; the head itself beside them."""
    lines = (DOCS / "systems.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = {}
    for line in [lines[start], *lines[start + 2 :]]:
        if not line.startswith("|"):
            break
        first, *cells = [re.sub(r"[`*]", "", cell).strip() for cell in line.strip("|").split("|")]
        rows[first] = cells
    return rows


def mean_and_spread(errors):
    if len(errors) == 1:
        return f"{errors[0]:.2f}"
    return f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f}"


def own_cost(row):
    """Mean multiply-adds as a network of dynamic cost learned to spend them; else those of every image."""
    setting = {"RNP": 0.0, "DT-RAM": 0.5}.get(row["name"])
    points = [point for point in row["curve"] if point["setting"] == setting]
    return points[0]["multiply_adds"] if points else row["multiply_adds"]


def test_every_row_is_on_the_page(stored):
    cells = table("network")
    del cells["network"]
    expected = {}
    for row in stored["rows"]:
        cost = f"{own_cost(row) / 1e6:.1f}"
        parameters, seeds = f"{row['parameters']:,}", str(len(row["seeds"]))
        expected[row["name"]] = [mean_and_spread(row["errors"]), cost, parameters, str(row["epochs"]), seeds]
    assert cells == expected


def test_every_verdict_is_on_the_page(stored):
    lines = (DOCS / "systems.md").read_text(encoding="utf-8")
    assert len(stored["claims"]) == 8
    for claim in stored["claims"]:
        errors = f"{claim['claimed']:.2f} | {claim['other']:.2f}"
        assert f"| {claim['system']} | {claim['words']} | {errors} | {claim['verdict']} |" in lines


def test_exits_and_budgets_are_on_the_page(by_name):
    exits = table("all images at one exit")
    budgets = table("budget, of the last exit's cost")
    costs = [f"{point['name']}, {point['multiply_adds'] / 1e6:.1f} M" for point in by_name[EXITS[0]]["points"]]
    assert exits["all images at one exit"] == [*costs, "mean"]
    for name in EXITS:
        errors = [point["error"] for point in by_name[name]["points"]]
        assert exits[name] == [f"{error:.2f}" for error in [*errors, statistics.mean(errors)]]
        assert budgets[name] == costed(by_name[name]["curve"], ".1f")


def costed(points, digits):
    return [f"{point['error']:.2f} at {point['multiply_adds'] / 1e6:{digits}} M" for point in points]


def test_balances_and_widths_are_on_the_page(by_name):
    rnp = by_name["RNP"]
    assert table("balance")["balance"] == [f"{point['setting']:g}" for point in rnp["curve"]]
    assert table("balance")["RNP"] == costed(rnp["curve"], ".2f")
    assert table("one width for all images")["the same network"] == costed(rnp["points"], ".2f")


def test_thresholds_and_glimpses_are_on_the_page(by_name):
    row = by_name["DT-RAM"]
    assert table("threshold")["threshold"] == [f"{point['setting']:g}" for point in row["curve"]]
    stopped = [f"{point['error']:.2f} at {point['steps']:.2f}" for point in row["curve"]]
    assert table("threshold")["stopped by its policy"] == stopped
    assert table("glimpses")["as many for all images"] == [f"{error:.2f}" for error in row["fixed"]]
    for point in row["chosen"]:
        assert f"threshold {point['setting']:g}" in (DOCS / "systems.md").read_text(encoding="utf-8")
