"""The engine against plain loops, on stages of which it knows nothing."""

import copy
from types import SimpleNamespace

import pytest
import torch
from rows import make_batches, make_row
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

from primenet_lightning import CompositeOptimizer, NonFiniteError, Rhythm, StageRunner
from primenet_lightning.analysis.memory import SavedActivations
from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import on_host
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training import runner

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


@pytest.mark.parametrize("rhythm", RHYTHMS[1:], ids=str)
def test_all_rhythms_give_the_same_numbers_bit_for_bit(rhythm):
    def learn(rhythm):
        network = make_row(layers=2)
        runner = StageRunner(network, composite(network, Adam, 0.01), rhythm, clip=0.3)
        return [runner.step(x, target)[:3] for x, target in make_batches(12)], network

    (records, network), (usual_records, usual) = learn(rhythm), learn(Rhythm())
    assert records == usual_records
    for one, other in zip(network.parameters(), usual.parameters(), strict=True):
        assert torch.equal(one, other)


class Journal:
    """An exchange with nobody, which writes down what it is asked for, and what had a gradient by then."""

    def __init__(self):
        self.lines = []

    def start(self, network, learners, share, last):
        learners = list(learners)
        parts = network.learners()
        assert all(parameter.grad is not None for name in learners for parameter in parts[name])
        self.lines.append((*learners, "last") if last else tuple(learners))

    def finish(self):
        self.lines.append("finish")


STAGES = [("stage0.layer0", "stage0.layer1"), ("stage1.layer0", "stage1.layer1"), ("head", "last")]
EVERYBODY = tuple(name for stage in STAGES for name in stage)


@pytest.mark.parametrize(
    ("rhythm", "lines"),
    [
        (Rhythm(), [EVERYBODY, "finish", "step"]),
        (Rhythm("learner"), [EVERYBODY, "finish", "step"]),
        (Rhythm("batch"), [EVERYBODY, "finish", "step"]),
        (Rhythm("stage", "stage"), [*STAGES, "finish", "step"]),
        (
            Rhythm("stage", "stage", "stage"),
            [STAGES[0], "finish", "step", STAGES[1], "finish", "step", STAGES[2], "finish", "step"],
        ),
    ],
    ids=str,
)
def test_gradients_are_exchanged_and_applied_when_the_rhythm_says(rhythm, lines):
    network, ((x, target),) = make_row(layers=2), make_batches(1)
    journal, optimizer = Journal(), composite(network)
    for name, child in optimizer.children.items():
        if not name.endswith("layer1"):  # one of each stage is enough
            child.register_step_pre_hook(lambda child, args, kwargs: journal.lines.append("step"))
    runner = StageRunner(network, optimizer, rhythm, exchange=journal)
    record = runner.run(x, target)
    if rhythm.step == "batch":
        assert journal.lines[-1] == "finish"  # when to step is the caller's, who may scale and count
        assert all(parameter.grad is not None for parameter in network.parameters())
        journal.lines.append("step")
    else:
        assert all(parameter.grad is None for parameter in network.parameters())
    assert journal.lines == lines
    assert list(record.values) == [name for name in EVERYBODY if name != "last"]


def test_in_a_window_only_the_last_batch_exchanges():
    network, batches = make_row(), make_batches(3)
    journal = Journal()
    runner = StageRunner(network, rhythm=Rhythm("stage", "stage"), exchange=journal)
    for number, (x, target) in enumerate(batches):
        assert journal.lines == []
        runner.run(x, target, window=3, applies=number == 2)
    assert journal.lines == [("stage0.layer0",), ("stage1.layer0",), ("head", "last"), "finish"]


def test_losses_and_gradients_are_weighted_by_the_share():
    """What two processes would add up, one after the other in the same network."""
    network, ((x, target),) = make_row(), make_batches(1, size=10)
    whole = copy.deepcopy(network)
    StageRunner(whole).run(x, target)

    class Part:
        def __init__(self, weight):
            self.weight = weight

        def mean(self, values):
            return values * self.weight

    parts = [(slice(None, 7), Part(0.7)), (slice(7, None), Part(0.3))]
    records = [StageRunner(network).run(x[part], target[part], share) for part, share in parts]
    expected = StageRunner(copy.deepcopy(whole)).run(x, target).values
    for name, value in expected.items():
        assert sum(record.values[name] for record in records) == pytest.approx(value)
    for parameter, other in zip(network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


class SomeStages(StagedNetwork):
    """Some of the stages of a network, in a process of their own."""

    def __init__(self, stages):
        super().__init__()
        self.parts = nn.ModuleList(stages)

    @property
    def stages(self):
        return list(self.parts)

    @property
    def in_shape(self):
        return self.parts[0].in_shape

    @property
    def loss_names(self):
        return list(self.learners())


def test_a_runner_of_some_stages_takes_in_and_lets_go():
    """As in a pipeline: the second half goes on from what the first lets go."""
    network, ((x, target),) = make_row(widths=(4, 6, 5, 7), layers=2), make_batches(1)
    stages = copy.deepcopy(network).stages
    expected = StageRunner(network).run(x, target)
    passed = []

    class Half(StageRunner):
        def enter(self, x):
            return passed.pop() if passed else x

        def leave(self, x):
            assert not x.requires_grad
            passed.append(x)

    first = Half(SomeStages(stages[:2])).run(x, target)
    second = Half(SomeStages(stages[2:])).run(torch.empty(0), target)
    assert first.values | second.values == expected.values
    assert first.route + second.route == expected.route
    trained = [parameter for stage in stages for parameter in stage.parameters()]
    for parameter, other in zip(trained, network.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


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


def cut_network():
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(width, 6), nn.Tanh()) for width in (4, 6))
    return CutNetwork(nn.Sequential(first, second, nn.Linear(6, 3)), (4,), at=["1", "2"])


@pytest.fixture
def looks(monkeypatch):
    """Counts how often losses are taken to the host."""
    seen = []
    monkeypatch.setattr(runner, "on_host", lambda losses, share: seen.append([*losses]) or on_host(losses, share))
    return seen


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Lets losses wait, as on a GPU, though none is here."""
    original = StageRunner._can_wait

    def can_wait(self, stage, x):
        return original(self, stage, SimpleNamespace(device=torch.device("cuda")))

    monkeypatch.setattr(StageRunner, "_can_wait", can_wait)


@pytest.mark.parametrize("rhythm", RHYTHMS, ids=str)
def test_losses_that_nobody_asks_for_are_looked_at_once_a_batch(rhythm, looks, request):
    batches = make_batches(3)
    trained = []
    for fixture in (None, "as_on_a_gpu"):
        if fixture is not None:
            request.getfixturevalue(fixture)
        network = cut_network()
        engine = StageRunner(network, composite(network), rhythm)
        records = [engine.step(x, target) for x, target in batches]
        trained.append((records, network.state_dict()))
    (records, weights), (later, same) = trained
    for one, other in zip(records, later, strict=True):
        assert list(one.values.items()) == list(other.values.items())
        assert (one.route, one.total) == (other.route, other.total)
        assert torch.equal(one.answers, other.answers)
    assert all(torch.equal(weight, same[name]) for name, weight in weights.items())
    names = list(network.loss_names)
    one_by_one = [[name] for name in names]
    at_the_end = one_by_one if rhythm.step == "stage" else [names]
    assert looks == 3 * one_by_one + 3 * at_the_end


@pytest.mark.usefixtures("as_on_a_gpu")
def test_who_chooses_by_losses_looks_at_them(looks):
    network, ((x, target),) = make_row(layers=2), make_batches(1)
    StageRunner(network).run(x, target)
    assert [len(names) for names in looks] == [2, 2, 1]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_nan_that_was_seen_late_comes_before_any_update():
    network, ((x, target),) = cut_network(), make_batches(1)
    with torch.no_grad():
        network.backbone[1][0].bias[0] = torch.nan
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NonFiniteError, match="the loss of part1 is nan"):
        StageRunner(network, composite(network)).step(x, target)
    changed = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert changed == {"backbone.1.0.bias"}  # NaN equals nothing


def peak(stages, backward, layers=1):
    network = make_row(widths=(4, *[64] * stages), layers=layers)
    ((x, target),) = make_batches(1, size=50)
    with SavedActivations([*network.parameters(), x, target]) as counter:
        StageRunner(network, rhythm=Rhythm(backward)).run(x, target)
    assert counter.alive == 0
    return counter.peak


def test_memory_is_that_of_one_stage():
    """And of all stages together where one backward serves all."""
    assert peak(9, "stage") == peak(3, "stage")
    assert peak(9, "learner") == peak(3, "learner")
    assert peak(9, "batch") > 2 * peak(3, "batch")


def test_learner_by_learner_memory_is_that_of_one_learner():
    assert peak(3, "learner", layers=6) == peak(3, "learner", layers=2)
    assert peak(3, "stage", layers=6) > 2 * peak(3, "stage", layers=2)


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
