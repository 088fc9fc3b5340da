"""A stage as a part of a row, and as a layer of a foreign model."""

import copy

import pytest
import torch
from rows import Dense, make_batches, make_row
from torch import nn
from torch.nn import functional

from primenet_lightning import collect_local_losses, local_targets
from primenet_lightning.nn.stages import logits_of, losses_of


def touched(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_losses_have_disjoint_graphs_and_hand_on_cuts():
    network, ((x, target),) = make_row(layers=2), make_batches(1)
    names = {id(p): name for name, p in network.named_parameters()}
    learners = network.learners()
    for stage in network.stages:
        outputs = list(stage.run_learners(x, target))
        for name, loss in losses_of(outputs).items():
            network.zero_grad()
            loss.backward()
            assert touched(network) == {names[id(p)] for p in learners[name]}
        x = stage.hand_on(x, outputs, 0)
        assert not x.requires_grad
        assert not any(logits.requires_grad for logits in logits_of(outputs).values())


def test_forward_is_the_layers_in_a_row_and_its_graph_is_whole():
    network, ((x, _),) = make_row(), make_batches(1)
    first, second = (part.layers["layer0"] for part in network.parts)
    logits = network(x)
    torch.testing.assert_close(logits, network.head(second(first(x).tanh()).tanh()))
    logits.sum().backward()
    assert {"parts.0.layers.layer0.weight", "parts.1.layers.layer0.weight", "head.weight"} <= touched(network)


def test_evaluation_goes_by_the_choices_and_remembers_nothing():
    network, ((x, target),) = make_row(layers=2), make_batches(1)
    first, second = (part.layers for part in network.parts)
    evaluation = network.evaluate(x, target, (1, 0, 0))
    logits = network.head(second["layer0"](first["layer1"](x).tanh()).tanh())
    torch.testing.assert_close(evaluation.logits["head"], logits)
    torch.testing.assert_close(evaluation.losses["head"], functional.cross_entropy(logits, target))
    assert evaluation.route == (1, 0)
    expected = sum(evaluation.losses[name] for name in ("stage0.layer1", "stage1.layer0", "head"))
    torch.testing.assert_close(evaluation.total, expected)
    assert not any(loss.requires_grad for loss in evaluation.losses.values())
    assert network.routes == []


def test_a_stage_in_a_foreign_model_learns_locally_and_lets_no_gradient_through():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Dense("", 4, 6, layers=2), nn.Linear(6, 3))
    ((x, target),) = make_batches(1)
    with local_targets(target):
        logits = model(x)
    losses = collect_local_losses(model)
    assert list(losses) == ["1.layer0", "1.layer1"]
    assert collect_local_losses(model) == {}
    functional.cross_entropy(logits, target).backward()
    assert touched(model) == {"2.weight", "2.bias"}
    sum(losses.values()).backward()
    assert touched(model) == {name for name, _ in model.named_parameters() if not name.startswith("0.")}
    output = model[1](model[0](x), target)
    best = min(output.values, key=output.values.get)
    assert output.route == list(output.values).index(best)
    torch.testing.assert_close(output.losses["layer1"], losses["1.layer1"])


def test_in_evaluation_targets_serve_the_losses_only():
    stage, ((x, target),) = Dense("", 4, 6, layers=2).eval(), make_batches(1)
    for labels in (target, (target + 1) % 3):
        output = stage(x, labels)
        assert output.route == 0
        assert output.values == {}
        torch.testing.assert_close(output.features, stage(x))
    with local_targets(target):
        torch.testing.assert_close(stage(x), stage.through(x).detach())
    assert collect_local_losses(stage) == {}


def test_copies_go_without_losses_that_nobody_collected():
    stage, ((x, target),) = Dense("", 4, 6), make_batches(1)
    with local_targets(target):
        stage(x)
    assert copy.deepcopy(stage).waiting_losses is None
    assert list(collect_local_losses(stage)) == ["layer0"]


@pytest.mark.parametrize(("name", "full"), [("stage0", "stage0.layer1"), ("", "layer1")])
def test_a_learner_is_called_by_its_stage_and_its_own_name(name, full):
    assert list(Dense(name, 4, 6, layers=2).learners())[1] == full
