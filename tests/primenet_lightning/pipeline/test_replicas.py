"""Rows of stages that share batches out, against one process."""

import random

import numpy
import torch
from tiny import Plain, Steps, TinyData, distance, make_model, make_trainer

from primenet_lightning.pipeline import LocalPipeline
from primenet_lightning.training.checkpoints import LastCheckpoint


def fit(folder, replicas, epochs=2, ckpt_path=None, **model_options):
    steps, last = Steps(), LastCheckpoint(folder)
    divided = dict(devices=4, strategy=LocalPipeline(replicas)) if replicas else {}
    trainer = make_trainer(
        folder, [steps, last], precision="64-true", max_epochs=epochs, enable_checkpointing=True, **divided
    )
    model = make_model(Plain, depth=2, projection_channels=0, keyed_random=True, **model_options)
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(7)
    trainer.fit(model, TinyData(batch_size=20, eval_batch_size=8), ckpt_path=ckpt_path)
    state = {}
    if trainer.is_global_zero:
        state = torch.load(last.path, weights_only=True)["state_dict"]
    outputs = [(output["losses"], output["route"]) for output in steps.outputs]
    return state, outputs, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_two_rows_of_two_learn_what_one_process_does(four_ranks, tmp_path):
    options = dict(accumulate_grad_batches=3, lr=1e-3)
    (tmp_path / "one").mkdir()
    state, outputs, metrics = fit(tmp_path / "one", 0, **options)
    results = four_ranks(fit_with, tmp_path, options)
    their_state, their_outputs, their_metrics = results[0]
    assert distance(their_state, state) < 1e-9
    assert len(their_outputs) == len(outputs)
    for (losses, route), (expected, expected_route) in zip(their_outputs, outputs, strict=True):
        assert route == expected_route
        assert losses.keys() == expected.keys()
        assert max(abs(losses[name] - expected[name]) for name in losses) < 1e-9
    assert {result[2]["val/error"] for result in results} == {metrics["val/error"]}
    assert their_metrics.keys() == metrics.keys()
    # and goes on alone
    more, _, _ = fit(tmp_path, 0, 3, tmp_path / "last.ckpt", **options)
    expected, _, _ = fit(tmp_path / "one", 0, 3, tmp_path / "one" / "last.ckpt", **options)
    assert distance(more, expected) < 1e-9


def fit_with(folder, options):
    return fit(folder, 2, **options)
