"""What the benchmarks of errors keep of a training is right, and their intervals cover what they should."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from ranks import load
from torch.optim import SGD

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.cost import count_training
from primenet_lightning.datamodules import DigitsDataModule

PATH = str(Path(__file__).parents[2] / "benchmarks" / "fits.py")
SMALL = dict(kernel_sizes=(1, 3), reduce_channels=2, channels=4, projection_channels=2, head_channels=4)


def fits(name):
    return load(PATH, name)


def digits_run(**options):
    model = SMALL | options.pop("model", {})
    return fits("Run")("digits", model, 1, data_options={"limit_train": 200, "batch_size": 20}, **options)


def test_verdicts_and_errors_are_those_of_the_trained_model():
    data = DigitsDataModule(limit_train=300)
    data.setup()
    optimizer = partial(SGD, lr=0.05)
    model = PrimeNet(**SMALL, capsule_optimizer=optimizer, head_optimizer=optimizer)
    result = fits("train_and_test")(model, data, epochs=2)
    for split, error in ((data.test_dataset, result.test_error), (data.validation_dataset, result.validation_error)):
        images, labels = split[torch.arange(len(split))]
        with torch.no_grad():
            right = model.eval()(data.normalize(images)).argmax(1) == labels
        assert error == pytest.approx(100 * (1 - right.float().mean().item()), abs=1e-4)
        if split is data.test_dataset:
            assert result.correct == right.tolist()
    assert fits("Fit").from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_run_repeats_itself_and_its_seed_counts():
    first, again, other = (digits_run(seed=seed).carry_out() for seed in (0, 0, 1))
    assert first.correct == again.correct != other.correct
    assert first.changed == again.changed
    twin = digits_run(model={"local": False, "router": "mean"}).carry_out()
    assert twin.changed == []
    assert [phase.capsules for phase in twin.phases] == [0]


def test_the_multiply_adds_of_training_fall_when_a_block_commits():
    options = SMALL | {"router": "commit", "router_options": {"warm_up": 3}}
    result = digits_run(model=options).carry_out()
    model = PrimeNet(**options)
    before = count_training(model.network)
    # the capsule that was kept costs what it costs, whatever it has learned
    after = []
    for kept in (0, 1):
        model = PrimeNet(**options)
        model.network.prime_blocks[0].router.commit(kept)
        model.network.prune()
        after.append(round((3 * before + 7 * count_training(model.network)) / 10))
    assert result.multiply_adds_training in after
    assert [(phase.capsules, phase.batches) for phase in result.phases] == [(2, 3), (1, 7)]
    assert result.changed == [0.0]


def test_a_training_that_diverges_counts_as_all_wrong():
    result = digits_run(learning_rate=1e30).carry_out()
    assert "learning rate" in result.diverged
    assert result.test_error == result.validation_error == 100
    assert result.correct == [False] * 359


def test_late_changes_are_counted_by_block():
    a, b = ("k3", "k3"), ("k5", "k3")
    # of nine batches the last three count, and the first of them against the one before
    assert fits("changed_late")([a, b, a, b, a, a, b, b, a]) == [pytest.approx(2 / 3), 0.0]
    assert fits("changed_late")([a, b], late=1.0) == [1.0, 0.0]
    assert fits("changed_late")([a]) == []


class Counted:
    """Stands for a run, and counts how often it is carried out."""

    def __init__(self, key, result):
        self.name, self.result, self.times = key, result, 0

    def options(self):
        return {"name": self.name}

    def key(self):
        return fits("key_of")(self.options())

    def carry_out(self, root):
        self.times += 1
        return self.result


@pytest.fixture
def result():
    return fits("Fit")(50.0, 40.0, [True, False], 10, 20, 30, [0.5], [fits("Phase")(2, 30, 5, 1.0, 2.0)])


def test_a_finished_run_is_not_run_again(tmp_path, result):
    one, other = Counted("one", result), Counted("other", dataclasses.replace(result, test_error=9.0))
    for _ in range(2):
        store = fits("Store")(tmp_path / "new" / "results.jsonl")
        assert store.carry_out(one) == result
        assert store.carry_out(other).test_error == 9.0
    assert one.times == other.times == 1


def test_what_a_killed_process_leaves_is_passed_over_and_nothing_else_is_lost(tmp_path, result):
    store = fits("Store")(tmp_path / "results.jsonl")
    store.add(Counted("one", result), result)
    whole = store.path.read_bytes()
    for size in (1, len(whole) // 2, len(whole) - 2):
        store.path.write_bytes(whole + whole[:size])
        with pytest.warns(UserWarning, match=r"line 2 of .* is damaged"):
            store.carry_out(two := Counted("two", result))
        with pytest.warns(UserWarning, match="is damaged"):
            assert store.results().keys() == {Counted("one", result).key(), two.key()}


def test_several_may_write_at_once(tmp_path, result):
    stores = [fits("Store")(tmp_path / "results.jsonl") for _ in range(4)]
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


def test_equal_verdicts_have_a_ratio_of_one_without_width():
    right = np.random.default_rng(0).random((3, 500)) < 0.7
    assert fits("paired_bootstrap")(right, right) == (1.0, 1.0, 1.0)


def test_the_interval_of_one_seed_is_that_of_the_delta_method():
    generator = np.random.default_rng(1)
    hard = generator.random(4000) < 0.2
    local, twin = (hard & (generator.random(4000) < share) for share in (0.9, 0.7))
    # Var(log(a / b)) is about the variance over the images of a_i / a - b_i / b, over their number
    deviation = (local / local.mean() - twin / twin.mean()).std() / math.sqrt(4000)
    ratio, low, high = fits("paired_bootstrap")([~local], [~twin])
    assert ratio == pytest.approx(local.mean() / twin.mean())
    assert math.log(high / ratio) == pytest.approx(1.96 * deviation, rel=0.06)
    assert math.log(ratio / low) == pytest.approx(1.96 * deviation, rel=0.06)


def test_the_interval_covers_the_true_ratio_in_most_of_simulated_studies():
    generator = np.random.default_rng(2)
    covered = 0
    for study in range(200):
        # three seeds that differ by themselves, and images that are hard for both sides
        level = generator.normal(0.3, 0.01, size=(3, 1))
        hardness = generator.random(2000)
        wrong = [hardness + generator.normal(0, 0.05, size=(3, 2000)) < level * share for share in (1.2, 1.0)]
        _, low, high = fits("paired_bootstrap")(~wrong[0], ~wrong[1], draws=400, seed=study)
        covered += low <= 1.2 <= high
    assert covered >= 180


def test_verdicts_that_cannot_be_paired_are_refused():
    bootstrap = fits("paired_bootstrap")
    for local, twin in (([[True]], [[True], [False]]), ([[True, False]], [[False]]), ([], [])):
        with pytest.raises(ValueError, match="give verdicts on the same images"):
            bootstrap(local, twin)
    with pytest.raises(ValueError, match="twin makes no error"):
        bootstrap([[True, False]], [[True, True]])


def test_shares_of_the_work_are_disjoint_and_complete():
    assert sorted(item for index in (1, 2, 3) for item in fits("shard")(range(7), f"{index}/3")) == list(range(7))
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ValueError, match="is no share"):
            list(fits("shard")(range(7), wrong))
