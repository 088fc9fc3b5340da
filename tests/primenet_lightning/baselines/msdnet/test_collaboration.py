"""Inline collaboration and one-for-all distillation against their closed forms."""

import copy

import pytest
import torch
from formulas import double
from torch.nn import functional

from primenet_lightning.baselines.msdnet.collaboration import CollaboratingExits, OneForAll
from primenet_lightning.baselines.msdnet.network import MSDNetwork
from primenet_lightning.baselines.msdnet.plan import Plan
from primenet_lightning.nn.exits.network import answers
from primenet_lightning.nn.exits.stage import ExitAnswers

TINY = Plan(exits=3, scales=2, channels=4, growth=2, exit_channels=6)


def network(detached=True):
    torch.manual_seed(2)
    trained = MSDNetwork(1, 4, TINY)
    with torch.no_grad():
        for _ in range(5):
            trained(torch.randn(16, 1, 8, 8))
    return CollaboratingExits(trained, detached)


def test_the_new_layers_have_the_parameters_of_the_specification():
    for exits in (3, 5):
        with torch.device("meta"):
            made = CollaboratingExits(MSDNetwork(3, 10, Plan(exits=exits)))
        new = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
        assert new == 1290 + (exits - 1) * (2570 + 1664)
        assert new == {3: 9758, 5: 18226}[exits]


def test_answers_by_hand_and_exit_by_exit():
    made, x = network().eval(), torch.randn(5, 1, 8, 8)
    given = made.answer_all(x)
    state, heard = (x,), None
    for index in range(3):
        state, features = made.trained.features(index, state)
        if heard is not None:
            linear, norm, _ = made.embeddings[index - 1]
            features = torch.cat([features, norm(linear(heard)).relu()], 1)
        heard = functional.linear(features, made.classifiers[index].weight, made.classifiers[index].bias)
        torch.testing.assert_close(given.logits[index], heard)
    torch.testing.assert_close(given.teacher, made.trained(x)[-1])
    for one, other in zip(given.logits, answers(made, x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("detached", [True, False])
def test_who_learns_from_whom(detached):
    """Exit i never hears later ones; detached, it does not learn from them either."""
    made, target = network(detached), torch.arange(5) % 4
    logits = made.answer_all(torch.randn(5, 1, 8, 8)).logits
    for index in range(3):
        loss = functional.cross_entropy(logits[index], target)
        wanted = list(made.classifiers.parameters())
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        learns = [gradient is not None and bool(gradient.any()) for gradient in found[::2]]
        assert learns == [place == index or (place < index and not detached) for place in range(3)]


def test_a_silent_embedding_leaves_a_plain_classifier():
    made, x = network().eval(), torch.randn(5, 1, 8, 8)
    for linear, norm, _ in made.embeddings:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        torch.nn.init.zeros_(norm.bias)
    state = (x,)
    for index, logits in enumerate(made(x)):
        state, features = made.trained.features(index, state)
        weight = made.classifiers[index].weight[:, :6]
        torch.testing.assert_close(logits, functional.linear(features, weight, made.classifiers[index].bias))


def test_the_trained_network_stays_as_it_was():
    made = network()
    before = copy.deepcopy(made.trained.state_dict())
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    given = made.answer_all(torch.randn(8, 1, 8, 8))
    sum(OneForAll()(given, torch.arange(8) % 4)).backward()
    optimizer.step()
    assert not made.trained.training
    assert all(parameter.grad is None for parameter in made.trained.parameters())
    assert all(torch.equal(value, before[name]) for name, value in made.trained.state_dict().items())
    new = [*made.classifiers.parameters(), *made.embeddings.parameters()]
    assert all(parameter.grad is not None for parameter in new)


@pytest.mark.parametrize(("weight", "temperature"), [(0.9, 3.0), (0.0, 3.0), (1.0, 1.0)])
def test_gradients_of_distillation_are_the_closed_form(weight, temperature):
    logits, teacher = [double(5, 4).requires_grad_() for _ in range(3)], double(5, 4).requires_grad_()
    target = torch.arange(5) % 4
    onehot = functional.one_hot(target, 4)
    losses = OneForAll(weight, temperature)(ExitAnswers(logits, teacher), target)
    sum(losses).backward()
    for z in logits[:-1]:
        labels = (1 - weight) * (z.softmax(1) - onehot) / 5
        soft = (z / temperature).softmax(1) - (teacher / temperature).softmax(1)
        torch.testing.assert_close(z.grad, labels + weight * temperature * soft / 5, rtol=0, atol=1e-14)
    torch.testing.assert_close(logits[-1].grad, (logits[-1].softmax(1) - onehot) / 5, rtol=0, atol=1e-14)
    assert teacher.grad is None
    if weight == 0:
        torch.testing.assert_close(losses[0], functional.cross_entropy(logits[0], target))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(weight=1.5), r"teaching=1\.5 must be from 0"),
        (dict(weight=float("nan")), "teaching=nan must be from 0"),
        (dict(temperature=0.0), r"temperature=0\.0 must be above 0"),
    ],
)
def test_impossible_weights_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        OneForAll(**arguments)
