"""What the benchmarks of errors note of a training is right."""

import json
from functools import partial

import fits
import pytest
import torch
from torch.optim import SGD

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.cost import count_training
from primenet_lightning.datamodules import DigitsDataModule

SMALL = dict(kernel_sizes=(1, 3), reduce_channels=2, channels=4, projection_channels=2, head_channels=4)


def digits_run(**options):
    model = SMALL | options.pop("model", {})
    return fits.Run("digits", model, 1, data_options={"limit_train": 200, "batch_size": 20}, **options)


def test_verdicts_and_errors_are_those_of_the_trained_model():
    data = DigitsDataModule(limit_train=300)
    data.setup()
    optimizer = partial(SGD, lr=0.05)
    model = PrimeNet(**SMALL, capsule_optimizer=optimizer, head_optimizer=optimizer)
    result = fits.train_and_test(model, data, epochs=2)
    for split, error in ((data.test_dataset, result.test_error), (data.validation_dataset, result.validation_error)):
        images, labels = split[torch.arange(len(split))]
        with torch.no_grad():
            right = model.eval()(data.normalize(images)).argmax(1) == labels
        assert error == pytest.approx(100 * (1 - right.float().mean().item()), abs=1e-4)
        if split is data.test_dataset:
            assert result.correct == right.tolist()
    assert fits.Fit.from_json(json.loads(json.dumps(result.to_json()))) == result


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
    assert fits.changed_late([a, b, a, b, a, a, b, b, a]) == [pytest.approx(2 / 3), 0.0]
    assert fits.changed_late([a, b], late=1.0) == [1.0, 0.0]
    assert fits.changed_late([a]) == []


def test_shares_of_the_work_are_disjoint_and_complete():
    assert sorted(item for index in (1, 2, 3) for item in fits.shard(range(7), f"{index}/3")) == list(range(7))
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ValueError, match="is no share"):
            list(fits.shard(range(7), wrong))
