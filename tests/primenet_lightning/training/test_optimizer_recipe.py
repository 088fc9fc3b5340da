"""One learning rate, or one optimizer, for all learners; and what they are refused for."""

from functools import partial

import pytest
import torch
from tiny import TinyData, make_model, make_trainer
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LRScheduler

from primenet_lightning.training.optimizer_recipe import OptimizerRecipe


def parts():
    return {"a": list(nn.Linear(2, 2).parameters()), "head": list(nn.Linear(2, 1).parameters())}


def two_rates(parameters):
    weight, bias = parameters
    return SGD([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2}])


@pytest.mark.parametrize("make", [SGD, AdamW, partial(Adam, lr=0.3), lambda parameters: SGD(parameters, lr=0.5)])
def test_lr_is_that_of_all_learners(make):
    composite, _ = OptimizerRecipe(make, Adam).make(parts(), lr=0.25)
    assert {group["lr"] for group in composite.param_groups} == {0.25}


def test_without_lr_each_learner_has_its_own():
    composite, _ = OptimizerRecipe(partial(SGD, lr=0.5), Adam).make(parts())
    assert [group["lr"] for group in composite.param_groups] == [0.5, 1e-3]


def test_lr_does_not_level_the_rates_of_groups():
    with pytest.raises(ValueError, match=r"lr=0.3 is for all parameters, but the optimizer of 'a' has groups at \[0.1"):
        OptimizerRecipe(two_rates, Adam).make(parts(), lr=0.3)


def test_one_optimizer_for_all_learners():
    model = make_model(optimizer=partial(SGD, lr=0.5, momentum=0.9))
    composite, _ = model.optimizer_recipe.make(model.network.learners())
    assert {(group["lr"], group["momentum"]) for group in composite.param_groups} == {(0.5, 0.9)}


@pytest.mark.parametrize("name", ["capsule_optimizer", "head_optimizer"])
def test_one_optimizer_for_all_beside_another_is_refused(name):
    with pytest.raises(ValueError, match=f"optimizer=SGD is for all learners, but {name}=AdamW is given too"):
        make_model(optimizer=SGD, **{name: AdamW})


@pytest.mark.parametrize(("lr", "sentence"), [(0, "lr=0 must be positive"), (-1.0, "lr=-1.0 must be positive")])
def test_a_learning_rate_is_positive(lr, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_model(lr=lr)


def test_a_model_that_is_frozen_is_refused(tmp_path):
    model = make_model()
    model.freeze()
    with pytest.raises(ValueError, match=r"every parameter is frozen \(requires_grad=False\).*call model.unfreeze"):
        make_trainer(tmp_path).fit(model, TinyData(batch_size=20))


def test_one_part_may_be_frozen(tmp_path):
    model = make_model(lr=0.1)
    frozen, free = model.network.prime_blocks[0].capsules["k3"], model.network.prime_blocks[0].capsules["k5"]
    frozen.requires_grad_(False)
    before = [[value.clone() for value in part.parameters()] for part in (frozen, free)]
    make_trainer(tmp_path).fit(model, TinyData(batch_size=20))
    same = [
        all(torch.equal(old, new) for old, new in zip(values, part.parameters(), strict=True))
        for values, part in zip(before, (frozen, free), strict=True)
    ]
    assert same == [True, False]


def test_a_schedule_of_no_kind_is_refused():
    """In YAML, ``head_scheduler: {}`` is torch's base class."""
    with pytest.raises(ValueError, match="the scheduler of 'head' cannot be made"):
        OptimizerRecipe(SGD, SGD, head_scheduler=LRScheduler).make(parts())
