"""What a pipeline refuses, before anything runs."""

import re
from datetime import timedelta

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from tiny import make_model, with_scaler
from torch import nn

from primenet_lightning import CutNet, LocalPipeline
from primenet_lightning.callbacks import AveragedWeights, FeatureTSNE


def cut_net(recipe, **options):
    layers = [nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)]
    return CutNet(nn.Sequential(*layers), 2, (8, 8), 3, at=["1", "3"], recipe=recipe, **options)


def check(make_trainer, model, callbacks=(), devices=2, strategy="local_pipeline", **options):
    model.check(make_trainer(callbacks, devices=devices, strategy=strategy, **options), "fit")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(devices=4), "a pipeline of 4 processes has more of them than the network has stages, 3, some of which"),
        (dict(gradient_clip_val=1.0), "would clip all learners together"),
        (dict(callbacks=[Timer(timedelta(hours=1))]), "Timer(duration, interval='epoch')"),
        (dict(callbacks=[AveragedWeights()]), "AveragedWeights, which looks at the whole network"),
        (dict(callbacks=[FeatureTSNE()]), "FeatureTSNE, which looks at the whole network"),
        (with_scaler(), "use precision='bf16-mixed'"),
        (dict(strategy=LocalPipeline(replicas=3)), "does not divide 2 processes; use a number of devices that is a"),
        (dict(strategy=LocalPipeline(begins=["head"])), "need each other in one process; begin with one of block1"),
        (dict(sync_batchnorm=True, accelerator="cpu"), "sync_batchnorm=True"),
    ],
)
def test_options_of_the_trainer(make_trainer, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check(make_trainer, make_model(depth=2, pool_every=9), **options)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: make_model(local=False, router="concatenate"),
            "has stages, 1; use at most devices=1",
        ),
        (lambda: make_model(depth=2, pool_every=9, keyed_random=False), "keyed_random=False draws random numbers in"),
        (lambda: make_model(depth=2, inference_routing="best_validation", pool_every=9), "tries all joint routes"),
        (lambda: cut_net("overlap"), "some of which need each other so that 1 are left to part"),
    ],
)
def test_models(make_trainer, model, words):
    with pytest.raises(ValueError, match=words):
        check(make_trainer, model())


def test_a_part_that_looks_at_the_next_one(make_trainer):
    with pytest.raises(ValueError, match="some of which need each other so that 2 are left to part"):
        check(make_trainer, cut_net("man"), devices=3)


def test_a_backend_without_tensors_of_the_cpu():
    with pytest.raises(ValueError, match=r"process_group_backend='nccl' does not carry the maps .* use 'gloo'"):
        LocalPipeline(process_group_backend="nccl")


def test_a_number_of_replicas_that_is_none():
    with pytest.raises(ValueError, match="replicas=0"):
        LocalPipeline(replicas=0)


def test_what_a_pipeline_takes(make_trainer):
    check(make_trainer, cut_net("infopro"), devices=3)
    check(make_trainer, cut_net("man"), devices=2)
    check(make_trainer, cut_net("greedy"), devices=6, strategy=LocalPipeline(replicas=2))
    check(make_trainer, make_model(depth=2, pool_every=9), [Timer(timedelta(hours=1), interval="epoch")])


def test_a_model_that_was_divided_is_whole_nowhere_else(make_trainer):
    model = make_model(depth=2, pool_every=9)
    head = next(model.network.head.parameters())
    torch.utils.swap_tensors(head, nn.Parameter(head.to("meta")))
    for options in (dict(devices=1, strategy="auto"), {}):
        with pytest.raises(ValueError, match="load the whole model from a checkpoint"):
            check(make_trainer, model, **options)
