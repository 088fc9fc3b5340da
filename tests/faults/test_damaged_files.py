"""Files of every kind, damaged at random: the short form of ``benchmarks/faults.py``."""

import warnings
from pathlib import Path

import pytest
from ranks import load

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def faults(monkeypatch):
    """``faults("damages")`` is that function; its file imports its neighbours by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: load(str(FOLDER / "faults.py"), name)


def test_no_damage_is_answered_wrongly_or_with_a_traceback(faults, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried = faults("damages")(tmp_path, 80, seed=3, quick=True)
    outcomes = {damage.outcome for damage in tried}
    assert [damage for damage in tried if damage.outcome in ("wrong", "traceback")] == []
    assert outcomes == {"refused", "mentioned", "unharmed"}
    assert len({damage.kind for damage in tried}) > 15
