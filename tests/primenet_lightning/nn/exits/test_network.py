"""Images leave one by one; of those that have left nothing more is computed."""

import pytest
import torch
from torch import nn

from primenet_lightning.nn.exits.network import answers, classify
from primenet_lightning.nn.exits.stage import ExitAnswers, ExitsNetwork
from primenet_lightning.training.runner import Rhythm, StageRunner


class Chain(nn.Module):
    """Three dense layers, an exit after each."""

    num_exits = 3

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])
        self.classifiers = nn.ModuleList([nn.Linear(5, 3) for _ in range(3)])
        self.batches = []

    def advance(self, exit_index, state):
        (x,) = state
        self.batches.append(len(x))
        x = self.layers[exit_index](x).tanh()
        return (x,), 3 * self.classifiers[exit_index](x)

    def answer_all(self, x):
        return ExitAnswers(list(answers(self, x)))

    def parts(self, exit_index):
        return [self.layers[exit_index], self.classifiers[exit_index]]


@torch.no_grad()
def test_only_images_that_stay_are_computed():
    network, x = Chain(), torch.randn(40, 5)
    everything = [logits.softmax(1) for logits in answers(network, x)]
    network.batches.clear()
    logits, taken = classify(network, x, [0.6, 0.7, 0.0])
    assert network.batches == [40, int((taken > 0).sum()), int((taken > 1).sum())]
    assert 0 < network.batches[2] < network.batches[1] < 40
    for row in range(40):
        sure = [everything[0][row].max() >= 0.6, everything[1][row].max() >= 0.7, True]
        assert taken[row] == sure.index(True)
        torch.testing.assert_close(logits[row].softmax(0), everything[taken[row]][row])


@torch.no_grad()
def test_nobody_is_computed_further_when_all_have_left():
    network = Chain()
    assert classify(network, torch.randn(4, 5), [0.0, 2.0, 2.0])[1].tolist() == [0] * 4
    assert network.batches == [4]
    with pytest.raises(ValueError, match=r"thresholds=\[0\.5\] are 1 for 3 exits"):
        classify(network, torch.randn(4, 5), [0.5])


@pytest.mark.parametrize("backward", ["stage", "batch"])
def test_the_engine_trains_by_the_sum_of_the_losses(backward):
    network = ExitsNetwork(Chain(), (5,))
    x, target = torch.randn(6, 5), torch.arange(6) % 3
    record = StageRunner(network, rhythm=Rhythm(backward)).run(x, target)
    losses = [nn.functional.cross_entropy(logits, target) for logits in answers(network.model, x)]
    assert list(record.values) == network.loss_names == ["exit0", "exit1", "head"]
    assert list(record.values.values()) == pytest.approx([loss.item() for loss in losses])
    assert record.total == record.values["head"]
    assert torch.equal(record.answers[2], list(answers(network.model, x))[2].argmax(1))
    expected = torch.autograd.grad(sum(losses), list(network.parameters()))
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_learners_are_disjoint_and_have_every_parameter_that_learns():
    network = ExitsNetwork(Chain(), (5,))
    network.model.layers[1].requires_grad_(False)
    learners = network.learners()
    assert [len(parameters) for parameters in learners.values()] == [4, 2, 4]
    owned = [id(parameter) for parameters in learners.values() for parameter in parameters]
    assert sorted(owned) == sorted(id(parameter) for parameter in network.parameters() if parameter.requires_grad)
    x = torch.randn(2, 5)
    torch.testing.assert_close(network(x), list(answers(network.model, x))[2])
