"""What must not change a result, changes none: order, copies and names of images, threads, workers, batch sizes.

Splitting a batch over two processes is tested in ``training/test_two_processes.py``, over a pipeline in
``pipeline/test_runner.py``. Steps are those of SGD: Adam divides by the size of a gradient, and so makes a whole step
of the rounding of one that is zero.
"""

import copy
from functools import cache, partial

import pytest
import torch
from tiny import TinyData, make_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from primenet_lightning import CompositeOptimizer, CutNet, StageRunner
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.resnets import SmallImageResNet

ROUNDING = dict(rtol=0, atol=1e-10)
CLASSES = 3
KINDS = ("compact", "deep stack", "cut backbone", "baseline")


class Residual(EndToEnd):
    """As `CifarResNet20`, of 8 layers."""

    def configure_backbone(self):
        return SmallImageResNet(8, self.in_shape[0], self.num_classes)


@cache
def model_of(kind):
    torch.manual_seed(2)
    data = dict(in_channels=2, image_size=(8, 8), num_classes=CLASSES)
    if kind == "compact":
        return make_model()
    if kind == "deep stack":
        return make_model(depth=4, pool_every=2, local_classifier="pooled")
    if kind == "baseline":
        return Residual(**data)
    backbone = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, CLASSES),
    )  # fmt: skip
    return CutNet(backbone, **data, parts=2, recipe="greedy")


@pytest.fixture(params=KINDS)
def model(request):
    return model_of(request.param)


@pytest.fixture
def network(model):
    """Of float64, so that a difference of 1e-10 is rounding and nothing else.

    Biases are not zero: of a map of zeros all logits would be the same, and the answer is the first of the classes.
    """
    network = copy.deepcopy(model.network).double().train()
    generator = torch.Generator().manual_seed(3)
    for layer in classifiers_of(network):
        nn.init.uniform_(layer.bias, -0.1, 0.1, generator)
    return network


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, 2, 8, 8, generator=generator).double(), torch.arange(9) % CLASSES


def runner_of(network):
    return StageRunner(network, CompositeOptimizer({name: SGD(part, 0.1) for name, part in network.learners().items()}))


def learned(network, *batches):
    """A copy of the network after these batches, and the records."""
    network = copy.deepcopy(network)
    runner = runner_of(network)
    records = [runner.step(*batch) for batch in batches]
    return network, records


def assert_alike(one, other, without=()):
    """The same state but for rounding."""
    values, others = one.state_dict(), other.state_dict()
    assert values.keys() == others.keys()
    for name, value in values.items():
        if not name.endswith(tuple(without)):
            torch.testing.assert_close(value, others[name], **ROUNDING, msg=lambda text, name=name: f"{name}: {text}")


def classifiers_of(network):
    """The last layers of all classifiers."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear) and layer.out_features == CLASSES]


def norms_of(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)}


# -- images ------------------------------------------------------------------------------------------------------------


def test_the_order_of_images_changes_no_step(network, batch):
    x, target = batch
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    usual, (record, _) = learned(network, batch, batch)
    permuted, (other, _) = learned(network, (x[order], target[order]), batch)
    assert_alike(permuted, usual)
    assert other.route == record.route
    assert other.values == pytest.approx(record.values, abs=1e-10)
    assert torch.equal(other.answers, record.answers[:, order])


def test_images_that_stand_twice_change_no_step(network, batch):
    """Means and biased variances of a batch stay the same; running variances have n / (n - 1) of the latter."""
    x, target = batch
    counts = {}

    def count(layer, inputs, output, name):
        counts.setdefault(name, inputs[0].numel() // inputs[0].shape[1])

    for name, layer in norms_of(network).items():
        layer.register_forward_hook(partial(count, name=name))
    usual, (record,) = learned(network, batch)
    doubled, (other,) = learned(network, (torch.cat([x, x]), torch.cat([target, target])))
    assert_alike(doubled, usual, without=["running_var"])
    assert other.values == pytest.approx(record.values, abs=1e-10)
    assert torch.equal(other.answers, torch.cat([record.answers, record.answers], 1))
    norms, others = norms_of(usual), norms_of(doubled)
    assert counts.keys() == norms.keys()
    for name, count in counts.items():
        added = norms[name].running_var - (1 - norms[name].momentum)  # of a running variance that was 1
        added_of_doubled = others[name].running_var - (1 - others[name].momentum)
        expected = added * (count - 1) / count * 2 * count / (2 * count - 1)
        torch.testing.assert_close(added_of_doubled, expected, **ROUNDING)


def test_a_batch_twice_at_half_the_weight_changes_no_step(network, batch):
    """Running statistics have moved twice: the second time by what the first has left of the way."""
    usual, (record,) = learned(network, batch)
    twice = copy.deepcopy(network)
    runner = runner_of(twice)
    runner.run(*batch, window=2, applies=False)
    other = runner.run(*batch, window=2)
    runner.optimizer.step()
    assert other.values == pytest.approx(record.values, abs=1e-10)
    for (name, value), expected in zip(twice.named_parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(value, expected, **ROUNDING, msg=lambda text, name=name: f"{name}: {text}")
    before, once, then = norms_of(network), norms_of(usual), norms_of(twice)
    for name, layer in then.items():
        for statistic in ("running_mean", "running_var"):
            first, second = getattr(before[name], statistic), getattr(once[name], statistic)
            expected = second + (1 - layer.momentum) * (second - first)
            torch.testing.assert_close(getattr(layer, statistic), expected, **ROUNDING)


# -- classes -----------------------------------------------------------------------------------------------------------


def renamed(network, order):
    """The same network, whose class j is the one that was ``order[j]``."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for layer in classifiers_of(network):
            layer.weight.copy_(layer.weight[order])
            layer.bias.copy_(layer.bias[order])
    return network


def test_classes_of_other_names_change_nothing_else(network, batch):
    x, target = batch
    order = torch.tensor([2, 0, 1])
    new_names = order.argsort()
    usual, (record,) = learned(network, batch)
    other, (other_record,) = learned(renamed(network, order), (x, new_names[target]))
    # the step
    assert_alike(other, renamed(usual, order))
    assert other_record.values == pytest.approx(record.values, abs=1e-10)
    assert torch.equal(other_record.answers, new_names[record.answers])
    # the evaluation
    usual.eval()
    other.eval()
    expected = usual.evaluate(x, target)
    evaluation = other.evaluate(x, new_names[target])
    assert evaluation.logits.keys() == expected.logits.keys()
    for name, logits in evaluation.logits.items():
        torch.testing.assert_close(logits, expected.logits[name][:, order], **ROUNDING)
        errors = logits.argmax(1) != new_names[target]
        assert torch.equal(errors, expected.logits[name].argmax(1) != target)
    torch.testing.assert_close(other(x), usual(x)[:, order], **ROUNDING)


# -- machines ----------------------------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_a_step_by_rounding_only(network, batch):
    threads = torch.get_num_threads()
    usual, (record,) = learned(network, batch)
    predictions = usual.eval()(batch[0])
    torch.set_num_threads(3)
    try:
        other, (other_record,) = learned(network, batch)
        torch.testing.assert_close(other.eval()(batch[0]), predictions, **ROUNDING)
    finally:
        torch.set_num_threads(threads)
    assert_alike(other, usual)
    assert torch.equal(other_record.answers, record.answers)


def test_the_number_of_workers_changes_no_bit():
    """Of a DataLoader of one's own: that of the package's data has none."""
    network = model_of("compact").network
    images = TensorDataset(torch.randn(20, 2, 8, 8), torch.arange(20) % CLASSES)
    states, records = [], []
    for workers in (0, 1):
        order = torch.Generator().manual_seed(6)
        loader = DataLoader(images, 8, shuffle=True, num_workers=workers, generator=order)
        other, of_batches = learned(network, *loader)
        states.append(other.state_dict())
        records.append([record[:3] for record in of_batches])
    assert len(records[0]) == 3
    assert records[0] == records[1]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_size_of_an_evaluation_batch_changes_no_result(model, make_trainer):
    results = []
    for size in (1000, 7):
        data = TinyData(batch_size=20, eval_batch_size=size)
        (result,) = make_trainer().test(model, data, verbose=False)
        results.append(result)
    counted = [name for name in results[0] if "loss" not in name]
    assert {"test/error", "test/accuracy"} <= set(counted)
    at_once, in_parts = results
    assert [in_parts[name] for name in counted] == [at_once[name] for name in counted]
    assert in_parts == pytest.approx(at_once, abs=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_an_image_is_answered_alike_whatever_stands_beside_it(network, batch, size):
    network.eval()
    at_once = network(batch[0])
    in_parts = torch.cat([network(part) for part in batch[0].split(size)])
    torch.testing.assert_close(in_parts, at_once, **ROUNDING)
