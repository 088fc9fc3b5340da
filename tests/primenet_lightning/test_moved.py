"""What version 0.1 had by name is still there by that name, or a sentence says what to use instead."""

import importlib
import json
import pickle
import runpy
import sys
from pathlib import Path

import pytest

import primenet_lightning
from primenet_lightning import moved

DATA = Path(__file__).parents[1] / "data"
OLD_NAMES = json.loads((DATA / "names-0.1.json").read_text(encoding="utf-8"))
"""The public names of each module of version 0.1 (commit f09cfb4), read from its files."""
IS_NOW = r"^primenet_lightning\.[\w.]+ is now primenet_lightning\."


@pytest.fixture
def forget(monkeypatch):
    """Makes the interpreter forget an old module, so that its use is the first one."""

    def forget(name):
        monkeypatch.delitem(sys.modules, f"primenet_lightning.{name}", raising=False)
        monkeypatch.delitem(vars(primenet_lightning), name, raising=False)  # to ask for it would import it again

    return forget


@pytest.mark.filterwarnings("ignore:.* is now :DeprecationWarning")
@pytest.mark.parametrize("old", OLD_NAMES)
def test_each_public_name_is_there_by_its_old_path(old):
    module = importlib.import_module(old)
    missing = []
    for name in OLD_NAMES[old]:
        is_gone = f"{old}.{name}".removeprefix("primenet_lightning.") in moved.REMOVED
        if not is_gone and not hasattr(module, name):
            missing.append(name)
    assert not missing, f"write into primenet_lightning/moved.py where these of {old} are now: {missing}"


@pytest.mark.filterwarnings("ignore:.* is now :DeprecationWarning")
def test_a_name_that_is_gone_gives_a_sentence():
    for path, sentence in moved.REMOVED.items():
        old, _, name = f"primenet_lightning.{path}".rpartition(".")
        assert name in OLD_NAMES[old]
        with pytest.raises(ImportError) as caught:
            exec(f"from {old} import {name}")
        assert str(caught.value) == f"{old}.{name} is gone: {sentence}"


@pytest.mark.filterwarnings("ignore:.* is now :DeprecationWarning")
@pytest.mark.parametrize("path", moved.RENAMED)
def test_a_name_that_is_another_one_now_is_that_one(path):
    old, _, name = f"primenet_lightning.{path}".rpartition(".")
    new, _, new_name = f"primenet_lightning.{moved.RENAMED[path]}".rpartition(".")
    assert name in OLD_NAMES[old]
    assert getattr(importlib.import_module(old), name) is getattr(importlib.import_module(new), new_name)


@pytest.mark.parametrize("old", moved.MOVED)
def test_the_table_is_of_modules_that_there_were_and_that_there_are(old):
    assert f"primenet_lightning.{old}" in OLD_NAMES
    for home in moved.moved(f"primenet_lightning.{old}"):
        assert importlib.util.find_spec(home).origin.endswith(".py")


@pytest.mark.parametrize(
    "statement",
    [
        "import primenet_lightning.heads as heads",
        "from primenet_lightning import heads",
        "heads = __import__('primenet_lightning').heads",
        "import importlib; heads = importlib.import_module('primenet_lightning.heads')",
        "import types; from primenet_lightning.heads import local_classifier as one\n"
        "heads = types.SimpleNamespace(local_classifier=one)",
        "import types; from primenet_lightning.heads import *\n"
        "heads = types.SimpleNamespace(local_classifier=local_classifier)",
    ],
)
def test_each_way_to_import_tells_where_the_module_is_now(forget, statement):
    forget("heads")
    names = {}
    with pytest.warns(DeprecationWarning, match=r"^primenet_lightning\.heads is now primenet_lightning\.nn\.") as told:
        exec(statement, names)
    assert names["heads"].local_classifier is primenet_lightning.local_classifier
    assert len(told) == 1


def test_a_warning_points_to_the_line_that_imports(forget):
    forget("heads")
    with pytest.warns(DeprecationWarning, match=IS_NOW) as told:
        import primenet_lightning.heads  # noqa: F401
    assert told[0].filename == __file__


def test_classes_are_unpickled_by_their_old_path(forget):
    forget("losses")
    new = pickle.dumps(primenet_lightning.LocalLoss, protocol=0)
    old = new.replace(b"primenet_lightning.nn.losses", b"primenet_lightning.losses")
    assert old != new
    with pytest.warns(DeprecationWarning, match=IS_NOW):
        assert pickle.loads(old) is primenet_lightning.LocalLoss


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_runs_by_its_old_path(forget, monkeypatch, capsys):
    forget("cli")
    monkeypatch.setattr(sys, "argv", ["primenet", "--help"])
    with (
        pytest.warns(DeprecationWarning, match=r"primenet_lightning\.cli is now primenet_lightning\.commands\.main"),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_module("primenet_lightning.cli", run_name="__main__", alter_sys=True)
    assert ended.value.code in (0, None)
    assert "fit  " in capsys.readouterr().out


def test_what_never_was_is_not_found(forget):
    forget("heads")
    with (
        pytest.warns(DeprecationWarning, match=IS_NOW),
        pytest.raises(ImportError, match="cannot import name 'PrimeNut'"),
    ):
        from primenet_lightning.heads import PrimeNut  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("primenet_lightning.tails")


def test_a_name_that_has_left_a_module_is_told_by_name(monkeypatch):
    """`primenet_lightning.runs` is now a package, whose folder has the names."""
    runs = importlib.import_module("primenet_lightning.runs")
    monkeypatch.delitem(vars(runs), "RunFolder", raising=False)
    with pytest.warns(DeprecationWarning, match=r"runs\.RunFolder is now primenet_lightning\.runs\.folder\.RunFolder$"):
        from primenet_lightning.runs import RunFolder
    assert RunFolder.__module__ == "primenet_lightning.runs.folder"


def test_a_name_that_is_gone_is_refused_in_each_kind_of_module(forget, monkeypatch):
    forget("heads")
    monkeypatch.setitem(moved.REMOVED, "heads.OldHead", "use NewHead of primenet_lightning.nn")
    monkeypatch.setitem(moved.REMOVED, "runs.OldFolder", "use RunFolder of primenet_lightning.runs.folder")
    with (
        pytest.warns(DeprecationWarning, match=IS_NOW),
        pytest.raises(ImportError, match=r"^primenet_lightning\.heads\.OldHead is gone: use NewHead"),
    ):
        from primenet_lightning.heads import OldHead  # noqa: F401
    with pytest.raises(ImportError, match=r"^primenet_lightning\.runs\.OldFolder is gone: use RunFolder"):
        from primenet_lightning.runs import OldFolder  # noqa: F401
