"""The benchmark of two commits: who takes which step, and what is divided by what."""

from types import SimpleNamespace

import commits
import pytest

SECONDS = {("older", "local"): 6.0, ("older", "twin"): 4.0, ("newer", "local"): 2.0, ("newer", "twin"): 2.5}


class StandIn:
    """A commit whose steps take as long as `SECONDS` says."""

    def __init__(self, tree, case_name):
        self.name = "newer" if tree == commits.ROOT else "older"
        self.times = {side: [] for side in commits.SIDES}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def step(self, side):
        warming_up = len(self.times[side]) < commits.WARM_UP
        self.times[side].append(1000.0 if warming_up else SECONDS[self.name, side])


def test_the_older_commit_is_over_the_newer_and_both_are_over_their_twins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commits, "Commit", StandIn)
    figures = commits.measure("stack1x1", tmp_path, rounds=4)
    assert figures == {
        "stack1x1_older_over_newer": 3.0,
        "stack1x1_older_over_end_to_end": 1.5,
        "stack1x1_newer_over_end_to_end": 0.8,
        "stack1x1_newer_ms": 2000.0,
    }
    assert "stack1x1" in capsys.readouterr().out


def test_both_sides_of_a_case_take_a_step():
    step = commits.steps_of("stack1x1")
    assert set(step) == set(commits.SIDES)
    for side in commits.SIDES:
        step[side]()


def test_a_process_of_another_package_is_not_measured(tmp_path):
    with pytest.raises(RuntimeError, match="was to be measured"):
        commits.Commit(tmp_path, "stack1x1")


def test_what_lightning_adds_is_measured_in_turns(tmp_path, monkeypatch, capsys):
    trees = []

    def over_bare(tree, root):
        trees.append(tree)
        over = 1.5 if tree == tmp_path else 1.25
        figures = {}
        for data in commits.LIGHTNING_DATA:
            figures |= {f"{data}_lightning_over_bare": over, f"{data}_overhead_ms": 2.0, f"{data}_bare_ms": 8.0}
        return figures

    monkeypatch.setattr(commits, "over_bare", over_bare)
    figures = commits.measure_lightning(tmp_path, rounds=3, root=None)
    for turn in range(3):
        assert {*trees[2 * turn : 2 * turn + 2]} == {tmp_path, commits.ROOT}
    for data in commits.LIGHTNING_DATA:
        assert figures[f"{data}_older_lightning_over_bare"] == 1.5
        assert figures[f"{data}_newer_lightning_over_bare"] == 1.25
    assert "digits, newer: Lightning over the bare step 1.250" in capsys.readouterr().out


@pytest.mark.parametrize("printed", ["", "Traceback ...\nImportError: no such name\n"])
def test_a_benchmark_that_measures_nothing_is_no_figure(printed, tmp_path, monkeypatch):
    monkeypatch.setattr(commits.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=printed))
    with pytest.raises(RuntimeError, match="has measured nothing with the package of"):
        commits.over_bare(tmp_path, root=None)


def test_a_benchmark_of_another_package_is_no_figure(tmp_path, monkeypatch):
    printed = SimpleNamespace(stdout='{"package": "elsewhere"}\n')
    monkeypatch.setattr(commits.subprocess, "run", lambda *_, **__: printed)
    with pytest.raises(RuntimeError, match="was to be measured, and elsewhere was loaded"):
        commits.over_bare(tmp_path, root=None)
