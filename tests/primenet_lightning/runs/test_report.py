"""The page of a run: everything in it, nothing from elsewhere."""

import base64
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from primenet_lightning.commands.main import main
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.report import write_report

SUMMARY = dict(dataset="<digits>", seed=3, test_error=1.234, validation_error=2.0, parameters=128480, epochs=25)
SUMMARY |= dict(multiply_adds_inference=1471744, multiply_adds_training=6, seconds=61.04, images_per_second=1380.2)
SUMMARY |= dict(
    routing={"block0.k3": 0.25, "block0.k5": 0.75}, routing_mode="majority", versions={"torch": "9"}, git_commit="abc"
)
SUMMARY |= dict(git_commit="abc", skipped_steps=2)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.words, self.cells, self.tags, self.places = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.places += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "my run"
    (path / "figures").mkdir(parents=True)
    (path / "config.yaml").write_text("model: <script>alert(1)</script>\n")
    for name, colour in (("zebra", 1), ("tsne", 2), ("losses", 3)):
        Image.new("RGB", (30, 20), (colour, 50, 90)).save(path / f"figures/{name}.png")
    Image.new("P", (10, 10), 1).save(path / "figures/tsne.gif")
    rows = ["epoch,step,train/loss/head,val/error", *(f"{e},{e},,{50 - e}" for e in range(25)), "0,3,0.5,"]
    (path / "metrics.csv").write_text("\n".join(rows) + "\n")
    return RunFolder(path)


def test_pictures_are_inlined_byte_by_byte_in_order(run):
    page = Page(write_report(run).read_text())
    pictures = [link for link in page.links if not link.startswith("#")]
    inlined = [base64.b64decode(link.partition("base64,")[2]) for link in pictures]
    order = ("losses.png", "tsne.gif", "tsne.png", "zebra.png")
    assert inlined == [(run.path / "figures" / name).read_bytes() for name in order]
    assert all(link.startswith("data:image/") for link in pictures)


def test_results_stand_beside_the_claim_and_are_escaped(run):
    (run.path / "summary.json").write_text(json.dumps(SUMMARY | {"paper": {"test_error": 0.58}}))
    text = write_report(run).read_text()
    page = Page(text)
    assert "PrimeNet on <digits>, seed 3" in page.words
    for shown in (
        "1.23",
        "0.58",
        "128,480",
        "1,380",
        "share of batches routed: block0.k5",
        "0.75",
        "torch 9",
        "model: <script>alert(1)</script>\n",
    ):
        assert any(shown in word for word in page.words), shown
    assert "script" not in page.tags
    assert "not finished" not in text


def test_epochs_are_twenty_at_most_the_last_included(run):
    words = Page(write_report(run).read_text()).words
    assert "val/error (%)" in words
    shown = [word for word in words if word.isdigit()]
    assert "24" in shown
    assert "26" in shown  # 50 - 24 %
    assert len([word for word in shown if int(word) < 25]) == 20


def test_an_unfinished_run_without_anything_says_so(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert "This run has not finished" in (tmp_path / "report.html").read_text()


def test_no_run_folder(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "is no run folder: it has no config.yaml" in capsys.readouterr().err


def test_what_else_may_lie_there(run):
    """A folder with a picture's name, a value that is no number, and letters beyond ASCII."""
    (run.path / "figures/folder.png").mkdir()
    (run.path / "metrics.csv").write_text("epoch,step,val/error\n0,0,none\n")
    run.config.write_text("name: caf\u00e9\n", encoding="utf-8")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert any("caf\u00e9" in word for word in page.words)
    assert any("'" in word and "my run/config.yaml" in word for word in page.words)  # quoted for the shell


def test_the_contents_lead_to_every_part(run):
    (run.path / "summary.json").write_text(json.dumps(SUMMARY))
    page = Page(write_report(run).read_text())
    places = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert places == page.places
    assert places == ["result", "losses.png", "tsne.gif", "tsne.png", "zebra.png", "epochs", "options"]
    assert page.tags.count("figcaption") == 3  # nothing is known of a zebra
    assert any("rows" not in word and "t-SNE" in word for word in page.words)


def test_the_page_has_a_dark_side(run):
    text = write_report(run).read_text()
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text


def test_where_all_maps_go_on_nothing_is_called_routed(run):
    least = {key: value for key, value in SUMMARY.items() if key != "routing"}
    least |= dict(least_loss={"block0.k3": 0.25, "block0.3x3/5x5": 0.75}, routing_mode="concatenate")
    (run.path / "summary.json").write_text(json.dumps(least))
    Image.new("RGB", (30, 20)).save(run.path / "figures/routing.png")
    (run.path / "figures/routing.csv").write_text("epoch,least_loss/block0.k3,changes/block0\n0,0.25,0.5\n")
    page = Page(write_report(run).read_text())
    body = " ".join(page.words).partition("Run folder")[2]
    assert "share of batches with the least loss: block0.3x3/5x5" in page.words
    assert "Least loss" in page.words
    assert body.count("routed") == body.count("no batch is routed") == 1


def test_a_report_of_a_run_of_0_1_has_its_shares(run):
    (run.path / "summary.json").write_text(json.dumps(SUMMARY | {"routing": [[0.25, 0.75]]}))
    words = Page(write_report(run).read_text()).words
    assert "share of batches routed: block0, capsule 2 of 2" in words


def test_a_drawing_is_inlined_too(run):
    (run.path / "figures/accuracy.svg").write_text("<svg/>")
    links = Page(write_report(run).read_text()).links
    assert sum(link.startswith("data:image/svg+xml;base64,") for link in links) == 1
