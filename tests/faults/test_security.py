"""Files of others run nothing that SECURITY.md does not name, and names break out of nowhere."""

import csv
import json
import os
import pickle
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny import make_model

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.callbacks.publishing import publish_table
from primenet_lightning.commands.command_line import check_files
from primenet_lightning.commands.main import main
from primenet_lightning.commands.printing import printable
from primenet_lightning.commands.resumption import options_of
from primenet_lightning.models.backbones import load_weights
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.report import write_report
from primenet_lightning.training.checkpoints import AtomicCheckpointIO

EVIL = [
    "</pre><script>alert(1)</script>",
    "=cmd|'/C calc'!A0",
    "@SUM(1)",
    "../../up",
    "a|b\n# c",
    '"><img src=x>',
    "\x1b[2J",
]


class Runs:
    """What a pickle would run as it is read."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "theirs.py").write_text(
        "import os\nfrom primenet_lightning import PrimeNet\n"
        "from primenet_lightning.nn.prime.router import LeastLoss\nos.mkdir('it-ran')\n"
        "class Net(PrimeNet): pass\nclass Mine(LeastLoss): pass\n"
    )
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    yield
    sys.modules.pop("theirs", None)


@pytest.fixture
def checkpoint():
    model = make_model()
    description = {"mean": [0.5, 0.5], "std": [0.5, 0.5]}
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "primenet_format": 2}
    content |= {"data_description": description, "class_path": "primenet_lightning.models.prime.PrimeNet"}
    content |= {"pytorch-lightning_version": "2.5.0"}
    return content


def write(content):
    AtomicCheckpointIO().save_checkpoint(content, "it.ckpt")
    return "it.ckpt"


def test_no_code_in_a_checkpoint_runs(checkpoint, capsys):
    files = [write(checkpoint | {"hyper_parameters": Runs()})]
    with open("pickle.ckpt", "wb") as file:
        pickle.dump(Runs(), file)
    torch.save({"state_dict": Runs()}, "old.ckpt", _use_new_zipfile_serialization=False)
    for file in [*files, "pickle.ckpt", "old.ckpt"]:
        for read in (load_model, AtomicCheckpointIO().load_checkpoint, PrimeNet.load_from_checkpoint):
            with pytest.raises(ValueError, match="cannot be"):
                read(file)
        with pytest.raises(ValueError, match="cannot be read"):
            load_weights(torch.nn.Linear(2, 2), file)
        assert main(["predict", f"--ckpt={file}", "it.png"]) == 1
    assert not os.path.exists("it-ran")


THEIRS = [
    {"class_path": "theirs.Net"},
    {"class_path": "os.system"},
    {"hyper_parameters": {"router": "theirs.Mine"}},
    {"hyper_parameters": {"optimizer": {"class_path": "theirs.Net", "init_args": {}}}},
    {"hyper_parameters": {"anything": ["theirs.Net"]}},
]


@pytest.mark.parametrize("changes", THEIRS)
def test_classes_of_others_can_be_forbidden(checkpoint, monkeypatch, changes):
    options = checkpoint["hyper_parameters"] | changes.get("hyper_parameters", {})
    file = write(checkpoint | changes | {"hyper_parameters": options})
    with pytest.raises(ValueError, match=r"it\.ckpt names (theirs|os)\.\w+, which is none of this package's own"):
        load_model(file, own_classes_only=True)
    monkeypatch.setenv("PRIMENET_ONLY_OWN_CLASSES", "1")
    with pytest.raises(ValueError, match="none of this package's own"):
        load_model(file)
    if "hyper_parameters" in changes:
        with pytest.raises(ValueError, match="none of this package's own"):
            PrimeNet.load_from_checkpoint(file)
    assert "theirs" not in sys.modules
    assert not os.path.exists("it-ran")


def test_what_is_of_this_package_is_allowed(checkpoint, monkeypatch):
    monkeypatch.setenv("PRIMENET_ONLY_OWN_CLASSES", "1")
    checkpoint["hyper_parameters"] |= {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    assert isinstance(load_model(write(checkpoint)), PrimeNet)


def test_where_they_are_not_forbidden_the_named_class_is_imported(checkpoint):
    """As SECURITY.md says."""
    assert type(load_model(write(checkpoint | {"class_path": "theirs.Net"}))).__name__ == "Net"
    assert os.path.exists("it-ran")


def test_a_checkpoint_has_nothing_called(checkpoint):
    checkpoint["hyper_parameters"] |= {"_instantiator": "theirs.Net"}
    with pytest.raises(ValueError, match=r"wants theirs\.Net called as it is opened"):
        PrimeNet.load_from_checkpoint(write(checkpoint))
    assert "theirs" not in sys.modules


@pytest.mark.parametrize(
    "options",
    [
        {"model": {"class_path": "theirs.Net"}},
        {"trainer": {"callbacks": [{"class_path": "theirs.Net"}]}},
        {"trainer": {"callbacks": {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "x": "os.system"}}},
    ],
)
def test_options_of_others_can_be_forbidden(tmp_path, monkeypatch, options):
    monkeypatch.setenv("PRIMENET_ONLY_OWN_CLASSES", "1")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(ValueError, match="own classes"):
        options_of(RunFolder(tmp_path))
    with pytest.raises(ValueError, match="own classes"):
        check_files(["fit", "--config", "config.yaml"])
    assert "theirs" not in sys.modules


# -- names -------------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)


@pytest.mark.filterwarnings("ignore:.*no check sum")
def test_no_name_breaks_out_of_the_page(tmp_path):
    run = RunFolder(tmp_path)
    run.config.write_text("model: x\n")
    expected = Tags(write_report(run).read_text()).tags
    shares = {f"block0.{name}": 0.5 for name in EVIL}
    summary = dict(dataset=EVIL[0], seed=EVIL[5], model=EVIL[0], test_error=1.0, parameters=1, epochs=1, seconds=1.0)
    summary |= dict(multiply_adds_inference=1, images_per_second=1.0, versions={EVIL[0]: EVIL[5]}, git_commit=EVIL[0])
    run.write_summary(summary | dict(routing=shares, routing_mode=EVIL[0]))
    run.config.write_text(json.dumps(EVIL))
    run.figures.mkdir()
    (run.figures / "<script>alert(1)<").mkdir()
    run.metrics.write_text("epoch,val/error\n0,<script>\n")
    page = write_report(run).read_text()
    assert Tags(page).tags <= expected | {"table", "tr", "th", "td", "div", "p"}
    assert "<script" not in page


def test_no_name_is_a_formula_in_a_table(tmp_path):
    publish_table("errors", ["class", "=1+1"], [[name, -1.5] for name in EVIL], SimpleNamespace(loggers=[]), tmp_path)
    with (tmp_path / "figures/errors.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["class", "'=1+1"]
    assert [row[0].removeprefix("'") for row in table[1:]] == EVIL
    assert not any(cell.startswith(("=", "@", "+")) for row in table for cell in row)
    assert table[1][1] == "-1.5"


def test_no_name_is_an_order_to_the_terminal_or_a_column_of_its_own():
    assert [printable(name) for name in ("a\tb\n", "\x1b[2J", "caf\u00e9 x")] == ["a\\tb\\n", "\\x1b[2J", "caf\u00e9 x"]
