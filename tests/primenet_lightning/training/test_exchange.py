"""What passes between processes, without Lightning; trainings of two processes are in test_two_processes.py."""

import pytest
import torch
from rows import make_batches, make_row
from torch import distributed, nn
from torch.optim import SGD

from primenet_lightning import CompositeOptimizer, Rhythm, StageRunner, WholeNetwork
from primenet_lightning.nn.numbers import WHOLE
from primenet_lightning.training.exchange import ALONE, Replicas

CPU = torch.device("cpu")


def test_alone_there_is_nobody_to_tell():
    network, ((x, target),) = make_row(), make_batches(1)
    StageRunner(network).run(x, target)
    before = [parameter.grad.clone() for parameter in network.parameters()]
    share = ALONE.share(6, CPU, flags=[True])
    assert share is WHOLE
    ALONE.start(network, network.loss_names, share, last=True)
    ALONE.finish()
    ALONE.settle(network)
    for parameter, gradient in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert ALONE.gather({"rank": 0}) == [{"rank": 0}]
    assert ALONE.sum(torch.tensor([1, 2])).tolist() == [1, 2]


# -- the engine with replicas

RHYTHMS = [
    ("stage", "batch", "batch"),
    ("learner", "batch", "batch"),
    ("batch", "batch", "batch"),
    ("stage", "stage", "batch"),
    ("learner", "stage", "stage"),
    ("stage", "stage", "stage"),
]


def learn(rhythm, shared=True):
    """Eight batches of eleven images, of which rank 0 has seven; without any Trainer."""
    network = make_row(layers=2).double()
    optimizers = {name: SGD(part, lr=0.1) for name, part in network.learners().items()}
    exchange = Replicas() if shared else ALONE
    runner = StageRunner(network, CompositeOptimizer(optimizers), Rhythm(*rhythm), exchange=exchange, clip=0.3)
    values = []
    for x, target in make_batches(8, size=11):
        if shared:
            part = (slice(None, 7), slice(7, None))[distributed.get_rank()]
            x, target = x[part], target[part]
        share = exchange.share(len(target), target.device)
        values.append(runner.step(x.double(), target, share).values)
    return network.state_dict(), values, network.routes


@pytest.mark.parametrize("rhythm", RHYTHMS, ids=str)
def test_replicas_learn_what_one_process_learns(rhythm, ranks):
    weights, values, routes = learn(rhythm, shared=False)
    first, second = ranks(learn, rhythm)
    assert first[1:] == second[1:]
    assert first[2] == routes
    assert len(set(routes)) > 1
    for here, there in zip(first[1], values, strict=True):
        assert here == pytest.approx(there, abs=1e-12)
    for name, weight in weights.items():
        assert torch.equal(first[0][name], second[0][name])
        torch.testing.assert_close(first[0][name], weight, rtol=0, atol=1e-12)


# -- what drifts apart


def normalised():
    """A network with statistics, that has seen images of its rank's own, three or one."""
    rank = distributed.get_rank()
    replicas, network = Replicas(), WholeNetwork(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), (4,))
    share = replicas.share((3, 1)[rank], CPU)
    network(torch.randn(9, 4, generator=torch.Generator().manual_seed(rank)))
    return replicas, network, share, network.model[0].running_mean


def settle():
    """Before a validation, with no step since the last batch."""
    replicas, network, _, mean = normalised()
    own = mean.clone()
    replicas.settle(network)
    if distributed.get_rank() == 0:
        replicas.settle(network)  # nothing has drifted since: whoever sent something would wait for ever
    return own, mean


def send():
    """With the last message of a step, weighted by the images."""
    replicas, network, share, mean = normalised()
    own = mean.clone()
    replicas.start(network, ["head"], share, last=False)
    replicas.finish()
    assert torch.equal(mean, own)
    replicas.start(network, ["head"], share, last=True)
    replicas.finish()
    if distributed.get_rank() == 0:
        replicas.settle(network)
    return own, mean


@pytest.mark.parametrize(("average", "weights"), [(settle, (0.5, 0.5)), (send, (0.75, 0.25))], ids=["settle", "send"])
def test_statistics_are_averaged_once(average, weights, ranks):
    (first, mean), (second, other) = ranks(average)
    assert not torch.equal(first, second)
    assert torch.equal(mean, other)
    torch.testing.assert_close(mean, weights[0] * first + weights[1] * second)


def tell():
    rank, replicas = distributed.get_rank(), Replicas()
    numbers = torch.tensor([rank + 1.0, 10.0])
    return replicas.gather({"rank": rank}), replicas.sum(numbers), numbers


def test_everybody_hears_of_everybody(ranks):
    for rank, (gathered, summed, numbers) in enumerate(ranks(tell)):
        assert gathered == [{"rank": 0}, {"rank": 1}]
        assert summed.tolist() == [3.0, 20.0]
        assert numbers.tolist() == [rank + 1.0, 10.0]
