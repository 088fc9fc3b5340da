"""Finished trainings are kept in a file, whoever else writes or is killed."""

import dataclasses
from threading import Thread

import kept_fits
import pytest


class Counted:
    """Stands for a run, and counts how often it is carried out."""

    def __init__(self, key, result):
        self.name, self.result, self.times = key, result, 0

    def options(self):
        return {"name": self.name}

    def key(self):
        return kept_fits.key_of(self.options())

    def carry_out(self, root):
        self.times += 1
        return self.result


@pytest.fixture
def result():
    return kept_fits.Fit(50.0, 40.0, [True, False], 10, 20, 30, [0.5], [kept_fits.Phase(2, 30, 5, 1.0, 2.0)])


def test_a_finished_run_is_not_run_again(tmp_path, result):
    one, other = Counted("one", result), Counted("other", dataclasses.replace(result, test_error=9.0))
    for _ in range(2):
        store = kept_fits.Store(tmp_path / "new" / "results.jsonl")
        assert store.carry_out(one) == result
        assert store.carry_out(other).test_error == 9.0
    assert one.times == other.times == 1


def test_what_a_killed_process_leaves_is_passed_over_and_nothing_else_is_lost(tmp_path, result):
    store = kept_fits.Store(tmp_path / "results.jsonl")
    store.add(Counted("one", result), result)
    whole = store.path.read_bytes()
    for size in (1, len(whole) // 2, len(whole) - 2):
        store.path.write_bytes(whole + whole[:size])
        with pytest.warns(UserWarning, match=r"line 2 of .* is damaged"):
            store.carry_out(two := Counted("two", result))
        with pytest.warns(UserWarning, match="is damaged"):
            assert store.results().keys() == {Counted("one", result).key(), two.key()}


def test_several_may_write_at_once(tmp_path, result):
    stores = [kept_fits.Store(tmp_path / "results.jsonl") for _ in range(4)]
    long = dataclasses.replace(result, correct=[True] * 10_000)

    def write(index, store):
        for number in range(10):
            store.add(Counted(f"{index} {number}", long), long)

    threads = [Thread(target=write, args=pair) for pair in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0].results()) == 40
