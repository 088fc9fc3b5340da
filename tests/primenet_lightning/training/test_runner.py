"""The engine against plain loops, on stages of which it knows nothing."""

import copy

import pytest
import torch
from rows import make_batches, make_row
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

from primenet_lightning import CompositeOptimizer, NonFiniteError, Rhythm, StageRunner
from primenet_lightning.analysis.memory import SavedActivations
from primenet_lightning.nn.whole import WholeNetwork

RHYTHMS = [
    Rhythm(),
    Rhythm("learner"),
    Rhythm("batch"),
    Rhythm("stage", "stage"),
    Rhythm("learner", "stage", "stage"),
    Rhythm("stage", "stage", "stage"),
]


def composite(network, make=SGD, rate=0.1):
    return CompositeOptimizer({name: make(part, lr=rate) for name, part in network.learners().items()})


def plain_loop(network, batches, make=SGD, rate=0.1, clip=None):
    """By hand: every learner its own loss and optimizer, the output of the better layer goes on."""
    optimizers = {name: make(part, lr=rate) for name, part in network.learners().items()}
    routes = []
    for x, target in batches:
        route, losses = [], {}
        for i, stage in enumerate(network.parts):
            features = {}
            for name, layer in stage.layers.items():
                features[name] = layer(x).tanh()
                losses[f"stage{i}.{name}"] = functional.cross_entropy(stage.classifiers[name](features[name]), target)
            own = [losses[f"stage{i}.{name}"].item() for name in features]
            route.append(own.index(min(own)))
            x = list(features.values())[route[-1]].detach()
        losses["head"] = functional.cross_entropy(network.head(x), target)
        for name, optimizer in optimizers.items():
            optimizer.zero_grad()
            losses[name].backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(network.learners()[name], clip)
        for optimizer in optimizers.values():
            optimizer.step()
        routes.append(tuple(route))
    return routes


@pytest.mark.parametrize("rhythm", RHYTHMS, ids=str)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_every_rhythm_is_the_plain_loop(rhythm, clip):
    network, batches = make_row(layers=2).double(), [(x.double(), y) for x, y in make_batches(20)]
    plain = copy.deepcopy(network)
    runner = StageRunner(network, composite(network, Adam, 0.01), rhythm, clip=clip)
    for x, target in batches:
        record = runner.step(x, target)
    routes = plain_loop(plain, batches, Adam, 0.01, clip)
    assert network.routes == routes
    assert record.route == routes[-1]
    assert len(set(routes)) > 1
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_record_says_what_the_batch_came_to():
    network = make_row(layers=2)
    ((x, target),) = make_batches(1)
    expected = network.evaluate(x, target, (0, 0, 0))
    record = StageRunner(network).run(x, target)
    assert list(record.values) == ["stage0.layer0", "stage0.layer1", "stage1.layer0", "stage1.layer1", "head"]
    assert record.values["stage0.layer1"] == pytest.approx(expected.losses["stage0.layer1"].item())
    went_on = [record.values[f"stage{i}.layer{choice}"] for i, choice in enumerate(record.route)]
    assert record.total == pytest.approx(sum(went_on) + record.values["head"])
    assert record.answers.shape == (5, 6)
    assert torch.equal(record.answers[0], expected.logits["stage0.layer0"].argmax(1))


def test_without_an_optimizer_gradients_add_up():
    network, ((x, target),) = make_row(), make_batches(1)
    runner = StageRunner(network)
    runner.run(x, target)
    once = [parameter.grad.clone() for parameter in network.parameters()]
    runner.run(x, target)
    for parameter, gradient in zip(network.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_gradients_of_a_window_are_averaged():
    network, ((x, target),) = make_row(), make_batches(1)
    whole = copy.deepcopy(network)
    StageRunner(whole).run(x, target)
    for half in (slice(None, 3), slice(3, None)):
        StageRunner(network).run(x[half], target[half], window=2, applies=False)
    for parameter, other in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def test_a_frozen_learner_is_passed_over():
    network, batches = make_row(), make_batches(3)
    network.parts[0].requires_grad_(False)
    before = copy.deepcopy(network.parts[0].state_dict())
    trained = network.head.weight.detach().clone()
    for rhythm in RHYTHMS:
        runner = StageRunner(network, composite(network), rhythm)
        for x, target in batches:
            runner.step(x, target)
    assert all(torch.equal(value, before[name]) for name, value in network.parts[0].state_dict().items())
    assert not torch.equal(network.head.weight, trained)


@pytest.mark.parametrize("rhythm", [Rhythm(), Rhythm("batch"), Rhythm("stage", "stage", "stage")], ids=str)
def test_a_nan_comes_before_the_update_of_its_stage(rhythm):
    network, ((x, target),) = make_row(), make_batches(1)
    with torch.no_grad():
        network.parts[1].layers["layer0"].bias[0] = torch.nan
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NonFiniteError, match=r"the loss of stage1\.layer0 is nan"):
        StageRunner(network, composite(network), rhythm).step(x, target)
    changed = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    changed -= {"parts.1.layers.layer0.bias"}  # NaN equals nothing
    at_once = rhythm.step == "stage"
    assert changed == ({name for name in before if name.startswith("parts.0.")} if at_once else set())
    assert network.routes == []


def test_memory_is_that_of_one_stage():
    """And of all stages together where one backward serves all."""

    def peak(stages, backward):
        network = make_row(widths=(4, *[64] * stages))
        ((x, target),) = make_batches(1, size=50)
        counter = SavedActivations([*network.parameters(), x, target])
        with counter:
            StageRunner(network, rhythm=Rhythm(backward)).run(x, target)
        return counter.peak

    assert peak(9, "stage") == peak(3, "stage")
    assert peak(9, "batch") > 2 * peak(3, "batch")


def test_a_whole_network_learns_by_plain_backpropagation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    plain, batches = copy.deepcopy(model), make_batches(5)
    network = WholeNetwork(model, (4,))
    runner = StageRunner(network, composite(network))
    optimizer = SGD(plain.parameters(), lr=0.1)
    for x, target in batches:
        record = runner.step(x, target)
        loss = functional.cross_entropy(plain(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert record.values == {"head": pytest.approx(loss.item())}
        assert record.route == ()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(backward="block"), "backward='block' is unknown; use 'learner' or 'stage' or 'batch'"),
        (dict(exchange="learner"), "exchange='learner' is unknown; use 'stage' or 'batch'"),
        (dict(step="learner"), "step='learner' is unknown"),
        (dict(backward="batch", exchange="stage"), "exchange='stage' comes more often than backward='batch'"),
        (dict(step="stage"), "step='stage' comes more often than exchange='batch', which it follows; use step='batch'"),
    ],
)
def test_impossible_rhythms_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Rhythm(**options)
