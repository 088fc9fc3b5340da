"""The charts of the documentation, the numbers that they are drawn from, and the tables below them."""

import importlib.util
import json
import re
import statistics
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("deep", "backbones", "fast", "performance", "systems", "claims", "results")


@pytest.fixture(scope="module")
def charts():
    """The tool, which is in no package."""
    described = importlib.util.spec_from_file_location("docs_charts", DOCS / "tools" / "charts.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def page(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def stored(name):
    return json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(name, head):
    """The cells below the head of a table of a page, without marks of letters."""
    lines = page(name).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([re.sub(r"[`*]", "", cell).strip() for cell in line.strip("|").split("|")])
    return rows


def ratio(stored_ratio):
    return "{value:.3f} ({low:.3f} to {high:.3f})".format(**stored_ratio)


def error(stored_error):
    return "{error:.2f} ± {spread:.2f}".format(**stored_error)


def mean_and_spread(errors):
    if len(errors) == 1:
        return f"{errors[0]:.2f}"
    return f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f}"


# -- pages and stored numbers agree ------------------------------------------------------------------------------------


def test_the_gap_on_the_page_is_the_one_stored():
    rows = rows_of("deep", "10,000 images, 3 seeds")
    for row, gap in zip(rows, stored("deep")["gap"], strict=False):
        assert row[0].startswith(f"{gap['data']}, {gap['epochs']} epochs")
        assert row[1:3] == [error(gap["local"]), error(gap["end_to_end"])]
        assert row[3].startswith(ratio(gap["ratio"]))


def test_the_full_data_on_the_page_are_those_stored():
    rows = rows_of("deep", "| epochs | test error")
    assert len(rows) == len(stored("deep")["full"])
    for row, run in zip(rows, stored("deep")["full"], strict=True):
        cells = [row[1], float(row[2]), row[4].replace(",", ""), row[5].partition(" M")[0]]
        assert cells == [str(run["epochs"]), run["error"], str(run["parameters"]), f"{run['multiply_adds']:.1f}"]


def test_the_ablation_on_the_page_is_the_one_stored():
    rows = rows_of("deep", "what differs from the base")
    assert len(rows) == len(stored("deep")["ablation"])
    for row, stored_row in zip(rows, stored("deep")["ablation"], strict=True):
        assert row[0] == stored_row["name"]
        for cells, key in ((row[1:5], "mnist"), (row[5:9], "cifar10")):
            values = stored_row[key]
            late = "-" if values["changed_late"] is None else f"{values['changed_late']:.1f} %"
            cost = f"{values['inference']:.2f} / {values['training']:.2f}"
            assert cells == [error(values), ratio(values["ratio"]), cost, late]


def test_the_recipes_on_the_page_are_those_stored():
    rows = rows_of("backbones", "recipe | parts")
    assert len(rows) == len(stored("backbones")["recipes"])
    for cells, row in zip(rows, stored("backbones")["recipes"], strict=True):
        assert cells[:2] == [row["recipe"], str(row["parts"])]
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        assert cells[2:4] == [str(row["seeds"]), f"{row['error']:.2f}{spread}"]
        assert cells[4] == ("" if row["ratio"] is None else ratio(row["ratio"]))
        assert cells[5:] == [f"{row['parameters']:,}", f"{row['multiply_adds_training'] / 1e6:.1f}"]


def test_the_costs_on_the_page_are_those_stored():
    rows = rows_of("backbones", "model | way")
    assert len(rows) == len(stored("backbones")["costs"])
    for cells, row in zip(rows, stored("backbones")["costs"], strict=True):
        assert cells[:2] == [row["model"], row["way"]]
        assert cells[2] == str(row["parts"])
        figures = [row[key] for key in ("saved", "resident", "time", "multiply_adds")]
        assert cells[3:] == ["" if figure is None else f"{figure:.2f}" for figure in figures]


def test_the_memory_on_the_page_is_the_one_stored():
    memory = stored("performance")["memory"]
    rows = rows_of("performance", "peak of saved activations, MiB")
    assert {name: list(map(float, cells)) for name, *cells in rows} == memory["mebibytes"]


def test_the_training_on_the_page_is_the_one_stored():
    training = stored("performance")["training"]
    rows = {name: cells for name, *cells in rows_of("performance", "step of")}
    for name, ratios in training["over"].items():
        assert rows[name] == ["{value:.2f} ({low:.2f} to {high:.2f})".format(**each) for each in ratios]


@pytest.mark.parametrize(("name", "title"), [("digits", "Digits"), ("mnist", "MNIST"), ("cifar10", "CIFAR-10")])
def test_the_verdicts_on_the_page_are_those_stored(name, title):
    section = page("results").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    verdicts = stored(name)["verdicts"]
    for verdict in verdicts:
        cells = [verdict[key] or "" for key in ("claim", "claimed", "measured", "verdict")]
        assert f"| {' | '.join(cells)} |" in section
    for word in ("confirmed", "not confirmed", "cannot be tested here"):
        count = sum(verdict["verdict"] == word for verdict in verdicts)
        assert re.search(rf"[:,] {count} {word}[,.]", section)
    whole = page(f"results/{name}")
    assert all(verdict["why"].replace("_", r"\_") in whole for verdict in verdicts)


def test_the_gap_of_the_fast_recipe_on_the_page_is_the_one_stored():
    gap = [row for row in stored("fast")["gap"] if row["variant"] != "end to end"]
    twins = [row for row in stored("fast")["gap"] if row["variant"] == "end to end"]
    rows = rows_of("fast", "images, epochs, seeds")
    for row, local, twin in zip(rows, gap, twins, strict=True):
        images = "all" if local["images"] is None else f"{local['images']:,}"
        assert row[0] == f"{images}, {local['epochs']}, {len(local['seeds'])}"
        assert row[1:3] == [mean_and_spread(local["errors"]), mean_and_spread(twin["errors"])]
        assert row[3] == ratio(local["ratio"])
        assert row[4:6] == [mean_and_spread(local["errors_flips"]), mean_and_spread(twin["errors_flips"])]
        assert row[6] == ratio(local["ratio_flips"])


# -- charts ------------------------------------------------------------------------------------------------------------


def test_every_page_shows_charts_above_folded_tables(charts):
    shown = []
    for name in PAGES:
        names = re.findall(r"!\[[^\]]+\]\(images/charts/([\w-]+)\.svg\)", page(name))
        assert names, name
        assert '<details markdown="1">' in page(name)
        assert page(name).count("<details") == page(name).count("</details>")
        shown += names
    assert {*shown} == {*charts.ALL} == {path.stem for path in charts.CHARTS.iterdir()}
    assert len(page("results").split()) <= 2000


def test_one_command_draws_them_all(charts, tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "CHARTS", tmp_path / "charts")
    charts.main()
    for name in charts.ALL:
        drawn = (tmp_path / "charts" / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn.startswith("<?xml")


def test_intervals_are_drawn_where_they_are(charts):
    figure = charts.deep_ratios()
    by_title = {axes.get_title(): axes for axes in figure.axes}
    (container,) = by_title["MNIST: 5,000 images, 3 epochs"].containers
    line, _, (bars,) = container
    ratios = [row["mnist"]["ratio"] for row in stored("deep")["ablation"]]
    assert line.get_xdata() == pytest.approx([each["value"] for each in ratios])
    ends = [sorted(point[0] for point in segment) for segment in bars.get_segments()]
    assert ends == [pytest.approx([each["low"], each["high"]]) for each in ratios]


def test_verdicts_are_told_apart_by_form_and_colour(charts):
    (axes,) = charts.verdicts().axes
    claims = [label.get_text() for label in axes.get_yticklabels()]
    marks = {}
    for line in axes.lines:
        if len(line.get_xdata()):
            marks[int(line.get_xdata()[0]), claims[int(line.get_ydata()[0])]] = line.get_marker()
    for column, name in enumerate(charts.REPRODUCED):
        for verdict in stored(name)["verdicts"]:
            assert marks[column, verdict["claim"]] == charts.VERDICTS[verdict["verdict"]][0]
    assert len({marker for marker, _ in charts.VERDICTS.values()}) == len({c for _, c in charts.VERDICTS.values()}) == 3


# -- the site without a server -----------------------------------------------------------------------------------------


def test_the_site_searches_from_a_folder_without_the_internet():
    site = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {"search", "offline"} <= {plugin for plugin in site["plugins"] if isinstance(plugin, str)}
    (script,) = site["extra"]["polyfills"]
    assert "iframe-worker" in script  # or the plugin would fetch one from the internet
    assert "IFrameWorker" in (DOCS / script).read_text(encoding="utf-8")
