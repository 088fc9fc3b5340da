"""The report: from the same results the same bytes, nothing from elsewhere, and no error of the subset of SVHN."""

import base64
import json
import re
import statistics
from html.parser import HTMLParser

import pytest
from made_up import made_up, parts
from markdown_it import MarkdownIt

from primenet_lightning.reproduction.report import pages
from primenet_lightning.reproduction.report._tables import tables
from primenet_lightning.reproduction.report.pages import write_pages
from primenet_lightning.reproduction.report.verdicts import judge

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that every element is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out, for tests of something else."""
    monkeypatch.setattr(pages, "draw", lambda results: {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_pages(made_up(), out)
    return out


def test_written_again_byte_for_byte(folder, tmp_path):
    again = write_pages(made_up(), tmp_path / "elsewhere")
    names = [path.relative_to(tmp_path / "elsewhere").as_posix() for path in again]
    assert names == [*("report.html", "report.md", "results.json"), *(f"figures/figure{k}.png" for k in (4, 5, 6, 7))]
    for name, path in zip(names, again, strict=True):
        assert path.read_bytes() == (folder / name).read_bytes()
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(folder / name for name in names)


def test_the_page_is_whole_and_has_nothing_from_elsewhere(folder):
    raw = (folder / "report.html").read_bytes()
    text = raw.decode("ascii")
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {*page.tags}
    assert len(page.links) == 4
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    pictures = [base64.b64decode(link.partition(",")[2]) for link in page.links]
    assert pictures == [(folder / f"figures/figure{k}.png").read_bytes() for k in (4, 5, 6, 7)]


def test_every_table_is_in_the_page_cell_by_cell(folder):
    page = Page((folder / "report.html").read_text())
    expected = [list(row) for table in tables(made_up()) for row in (table.heads, *table.rows)]
    assert page.rows == expected


def test_the_markdown_has_the_same_tables(folder):
    tokens = MarkdownIt().enable("table").parse((folder / "report.md").read_text(encoding="utf-8"))
    rows, within = [], False
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        within = token.type in ("td_open", "th_open") or (within and token.type == "inline")
        if token.type == "inline" and within:
            rows[-1].append("".join(child.content for child in token.children))
    expected = [list(row) for table in tables(made_up()) for row in (table.heads, *table.rows)]
    assert rows == expected


def test_the_markdown_shows_the_figures(folder):
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert shown == [f"figures/figure{k}.png" for k in (4, 5, 6, 7)]


def test_figure_7_says_that_it_is_no_even_start(folder):
    said = "Phase 2 starts on features that phase 1 trained for 30 epochs, the nets of one scale start from nothing"
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert said in text[text.index("Figure 7") :]


def test_the_numbers_are_for_programs_too(folder):
    text = (folder / "results.json").read_text()
    numbers = json.loads(text)
    assert json.dumps(numbers, indent=1, sort_keys=True) + "\n" == text
    errors = [result.test_error for result in parts()["prime"]]
    expected = dict(mean=statistics.fmean(errors), spread=statistics.stdev(errors), n=3, values=errors)
    assert numbers["parts"]["prime"]["test_error"] == expected
    assert numbers["parts"]["prime"]["extra/routings/oracle per batch"]["n"] == 3
    assert numbers["parts"]["multi_exit"]["extra/exits/threshold 0.9/error"]["mean"] == pytest.approx(1.1)
    assert numbers["settings"]["dataset"] == "mnist"
    assert [verdict["why"] for verdict in numbers["verdicts"]] == [verdict.why for verdict in judge(made_up())]
    assert numbers["paper"]["test_errors"] == {"mnist": 0.58, "cifar10": 6.21, "svhn": 1.71}


def with_errors_like_nothing_else():
    """A subset of SVHN whose results hold errors all the same, each written with three sevens."""
    found = parts(1)
    changed = {name: dict(test_error=11.777, validation_error=12.777) for name in found}
    routings = {"vote": 13.777, "oracle per batch": 14.777, "oracle per sample": 15.777}
    routings |= {f"oracle per {unit}, own verdict": 15.777 for unit in ("batch", "sample")}
    changed["prime"]["extra"] = found["prime"][0].extra | {"routings": routings}
    probed = dict(logistic_test_error=16.777, phase1_test_error=17.777)
    for name in ("probe", "probe_routed"):
        changed[name]["extra"] = found[name][0].extra | probed
    changed["multi_exit"]["extra"] = dict(exits=[dict(threshold=0.5, error=18.777, multiply_adds=1e6)])
    return made_up("svhn-subset", seeds=1, change=changed)


def test_the_subset_of_svhn_has_no_error_anywhere(tmp_path, undrawn):
    paths = write_pages(with_errors_like_nothing_else(), tmp_path)
    for path in paths[:3]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"base64,[^\"]*", "", text)
        assert not re.search(r"1[1-8]\.7|777", text), path.name
        assert "small subset of SVHN" in text
    for text in (paths[0].read_text(), paths[1].read_text(encoding="utf-8")):
        assert text.index("small subset of SVHN") < text.index("Verdicts")
        assert not re.search(r"error[^.]{0,40}\d+\.\d+ %", text)
        assert "Table 2: test error" not in text


def test_half_a_run_and_numbers_that_are_none(tmp_path, undrawn):
    results = made_up(without=("resnet50", "probe"), change={"resnet20": {"test_error": float("nan")}})
    paths = write_pages(results, tmp_path)
    Page(paths[0].read_text())
    assert json.loads(paths[2].read_text())["parts"]["resnet20"]["test_error"]["mean"] is None
    assert "![" not in paths[1].read_text(encoding="utf-8")
    assert len(write_pages(made_up(without=parts(1)), tmp_path / "nothing")) == 3


def test_what_means_something_to_html_and_markdown_stands_for_itself(tmp_path, undrawn):
    paths = write_pages(made_up(change={part: dict(device="<b>a|b</b> *c*") for part in parts(1)}), tmp_path)
    assert ["device", "<b>a|b</b> *c*"] in Page(paths[0].read_text()).rows
    assert "\\<b\\>a\\|b\\</b\\> \\*c\\*" in paths[1].read_text(encoding="utf-8")
