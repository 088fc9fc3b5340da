"""What passes between processes, without Lightning; trainings of two processes are in test_two_processes.py."""

import math

import pytest
import torch
from rows import make_batches, make_row
from tiny import make_model
from torch import distributed, nn
from torch.optim import SGD

from primenet_lightning import CompositeOptimizer, Rhythm, StageRunner, WholeNetwork
from primenet_lightning.nn.numbers import WHOLE
from primenet_lightning.training.exchange import ALONE, BatchShare, GradientSum, Replicas, batch_norm_statistics

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


# -- shares of a batch


def share_out():
    """Of 20 images rank 0 has 13, and rank 1 has 7, a flag, and a loss that is no number."""
    rank = distributed.get_rank()
    share = BatchShare((13, 7)[rank], CPU, flags=[rank == 1, False])
    means = share.mean(torch.tensor([(1.0, 3.0), (2.0, math.nan)][rank]))
    return share.weight, means.tolist(), share.any([True, True])  # flags that are raised later are not looked at


def test_means_are_those_of_all_images_and_a_flag_of_one_is_heard_by_all(ranks):
    (weight, means, flags), (other_weight, other_means, other_flags) = ranks(share_out)
    assert (weight, other_weight) == (13 / 20, 7 / 20)
    assert means[0] == other_means[0] == pytest.approx((13 * 1 + 7 * 2) / 20)
    assert math.isnan(means[1])
    assert math.isnan(other_means[1])
    assert flags == other_flags == [True, False]


def draw(count_of_first):
    """Random numbers for 7 images on two ranks whose generators agree."""
    rank = distributed.get_rank()
    torch.manual_seed(11)
    count = (count_of_first, 7 - count_of_first)[rank]
    return BatchShare(count, CPU).draw(count, 3, CPU)


def test_ranks_draw_the_numbers_of_one_process_and_take_their_own(ranks):
    torch.manual_seed(11)
    alone = WHOLE.draw(7, 3, CPU)
    first, second = ranks(draw, 4)
    assert torch.equal(torch.cat([first, second]), alone)
    first, second = ranks(draw, 2)  # shares that somebody else has cut get numbers of their own
    assert (len(first), len(second)) == (2, 5)
    assert len(torch.cat([first, second]).unique()) == 21


# -- gradients


def sum_gradients():
    """One gradient that both ranks have, one that rank 1 has, one that nobody has, and one of another precision."""
    rank = distributed.get_rank()
    both, one, none, double = (nn.Parameter(torch.zeros(2, 3)) for _ in range(4))
    double.data = double.data.double()
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    both.grad = torch.full((2, 3), rank + 1.0)
    one.grad = torch.ones(2, 3) if rank == 1 else None
    double.grad = torch.full((2, 3), 1e-12 + rank, dtype=torch.float64)
    statistics = torch.tensor([4.0 * rank])
    gradients = GradientSum()
    gradients.start([both, frozen, one, none, double], [statistics], weight=(0.25, 0.75)[rank])
    gradients.finish()
    gradients.finish()  # nothing is left
    return [parameter.grad for parameter in (both, one, none, double, frozen)], statistics


def test_gradients_are_summed_and_one_that_nobody_has_stays_away(ranks):
    for (both, one, none, double, frozen), statistics in ranks(sum_gradients):
        assert torch.equal(both, torch.full((2, 3), 3.0))
        assert torch.equal(one, torch.ones(2, 3))
        assert none is frozen is None
        assert torch.equal(double, torch.full((2, 3), 1e-12 + (1 + 1e-12), dtype=torch.float64))
        assert statistics.tolist() == [3.0]


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


def test_synchronised_batch_norm_needs_no_average():
    network = make_model().network.train()
    assert len(batch_norm_statistics(network)) == 2 * (3 + 1)  # three capsules and the head
    assert batch_norm_statistics(nn.SyncBatchNorm.convert_sync_batchnorm(network)) == []
    assert batch_norm_statistics(network.eval()) == []


def tell():
    rank, replicas = distributed.get_rank(), Replicas()
    numbers = torch.tensor([rank + 1.0, 10.0])
    return replicas.gather({"rank": rank}), replicas.sum(numbers), numbers


def test_everybody_hears_of_everybody(ranks):
    for rank, (gathered, summed, numbers) in enumerate(ranks(tell)):
        assert gathered == [{"rank": 0}, {"rank": 1}]
        assert summed.tolist() == [3.0, 20.0]
        assert numbers.tolist() == [rank + 1.0, 10.0]
