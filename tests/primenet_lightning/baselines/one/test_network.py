"""ONE's counts to the unit, its gate, its loss, and who learns from what."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import count_cost
from primenet_lightning.baselines.one.network import Answers, EnsembleNetwork, Gate, NativeEnsemble
from primenet_lightning.baselines.one.resnet import block_of, residual_network
from primenet_lightning.nn.systems.distillation import distillation

# by depth: of the target alone, and with three branches: parameters, multiply-adds
COUNTED = {
    20: ((272_474, 40_813_184), (685_271, 67_028_960)),
    32: ((466_906, 69_124_736), (1_175_639, 114_214_880)),
    110: ((1_704_154, 247_646_720), (4_294_263, 414_375_808)),
}


def small(**options):
    torch.manual_seed(2)
    return NativeEnsemble(2, 5, **({"depth": 8} | options))


def counted(network):
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("depth", COUNTED)
def test_parameters_and_multiply_adds_to_the_unit(depth):
    with torch.device("meta"):
        target, ensemble = residual_network(depth), NativeEnsemble(3, 10, depth)
    assert (counted(target), counted(ensemble)) == COUNTED[depth]


def test_the_authors_110_has_bottlenecks_and_basic_blocks_cost_otherwise():
    with torch.device("meta"):
        parameters, multiply_adds = counted(residual_network(110, block="basic"))
    assert (parameters, round(multiply_adds / 1e4)) == (1_730_714, 25_315)
    assert [block_of(depth) for depth in (38, 44)] == ["basic", "bottleneck"]


@pytest.mark.parametrize("predicts", ["target", "ensemble"])
def test_the_cost_counted_is_that_of_what_predicts(predicts):
    ensemble = NativeEnsemble(3, 10, 20, predicts=predicts)
    cost = count_cost(EnsembleNetwork(ensemble, (3, 32, 32)))
    assert cost[:2] == COUNTED[20][predicts == "ensemble"]
    assert cost.multiply_adds_training > 2 * COUNTED[20][1][1]


@torch.no_grad()
def test_the_target_network_is_the_first_branch_bit_for_bit():
    ensemble, images = small(), torch.randn(4, 2, 8, 8)
    for _ in range(3):
        ensemble(torch.randn(8, 2, 8, 8))
    target = ensemble.eval().target_network()
    plain = residual_network(8, 2, 5)
    names = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in target.state_dict().items()} == names
    assert torch.equal(target(images), ensemble(images).branches[0])
    assert torch.equal(target(images), ensemble.predict(images))
    target.fc.bias += 1  # its parameters are its own
    assert not torch.equal(target(images), ensemble.predict(images))


@torch.no_grad()
def test_the_ensemble_predicts_by_all_branches():
    ensemble, images = small(predicts="ensemble").eval(), torch.randn(4, 2, 8, 8)
    shared = ensemble.shared(images)
    weights = ensemble.gate(shared)
    expected = sum(weights[:, b, None] * branch(shared) for b, branch in enumerate(ensemble.branches))
    torch.testing.assert_close(ensemble.predict(images), expected)
    torch.testing.assert_close(ensemble.deployed()(images), expected)


def test_branches_share_the_lower_stages_and_nothing_else():
    ensemble = small()
    answers = ensemble(torch.randn(4, 2, 8, 8))
    for index in range(3):
        ensemble.zero_grad()
        answers.branches[index].square().sum().backward(retain_graph=True)
        assert all(parameter.grad.any() for parameter in ensemble.shared[0].parameters())
        for other, branch in enumerate(ensemble.branches):
            gradients = [parameter.grad for parameter in branch.parameters()]
            reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
            assert any(reached) == (other == index)
    first, second = (branch.layer3[0].conv1.weight for branch in ensemble.branches[:2])
    assert not torch.equal(first, second)


def test_a_step_on_one_branch_leaves_the_others_alone():
    ensemble = small()
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = copy.deepcopy(ensemble)
    features = ensemble.shared(torch.randn(4, 2, 8, 8))
    functional.cross_entropy(ensemble.branches[1](features), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    for index in (0, 2):
        for name, value in ensemble.branches[index].state_dict().items():
            assert torch.equal(value, before.branches[index].state_dict()[name])
        for parameter in ensemble.branches[index].parameters():
            assert parameter not in optimizer.state
    assert not torch.equal(ensemble.branches[1].fc.weight, before.branches[1].fc.weight)


# -- the gate


def test_weights_of_the_gate():
    gate = Gate(8, 3)
    weights = gate(torch.randn(6, 8, 4, 4))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    nn.init.zeros_(gate.linear.weight)
    nn.init.zeros_(gate.linear.bias)
    assert torch.allclose(gate(torch.randn(6, 8, 4, 4)), torch.tensor(1 / 3))
    # a score is never negative: no weight is below that of a score of zero
    gate = Gate(8, 3).eval()
    gate.linear.bias.data = torch.tensor([-100.0, 0.0, -100.0])
    gate.linear.weight.data.zero_()
    assert torch.allclose(gate(torch.randn(1, 8, 4, 4)), torch.tensor(1 / 3))


@pytest.mark.parametrize("training", [True, False])
def test_a_gate_is_pooling_layer_norm_relu_softmax_in_this_order(training):
    torch.manual_seed(3)
    gate = Gate(8, 3)
    nn.init.normal_(gate.norm.weight)
    gate.norm.bias.data = torch.tensor([-0.5, 0.2, 0.4])
    for _ in range(3):
        gate(torch.randn(6, 8, 4, 4))
    x = torch.randn(6, 8, 4, 4)
    scores = x.mean((2, 3)) @ gate.linear.weight.t() + gate.linear.bias
    mean, variance = scores.mean(0), scores.var(0, correction=0)
    if not training:
        mean, variance = gate.norm.running_mean.clone(), gate.norm.running_var.clone()
    normed = (scores - mean) / (variance + gate.norm.eps).sqrt() * gate.norm.weight + gate.norm.bias
    expected = normed.clamp(min=0).exp()
    torch.testing.assert_close(gate.train(training)(x), expected / expected.sum(1, keepdim=True))


def test_three_separate_networks_cost_more_than_three_branches():
    with torch.device("meta"):
        _, alone = counted(residual_network(32))
        _, together = counted(NativeEnsemble(3, 10, 32))
    assert round(3 * alone / 1e5) == 2074
    assert together == 114_214_880


def test_a_mean_where_the_gate_knows_nothing():
    ensemble, images = small().eval(), torch.randn(4, 2, 8, 8)
    nn.init.zeros_(ensemble.gate.linear.weight)
    nn.init.zeros_(ensemble.gate.linear.bias)
    answers = ensemble(images)
    torch.testing.assert_close(answers.ensemble, answers.branches.mean(0))


def test_one_image_teaches_a_gate_nothing():
    with pytest.raises(ValueError, match="a batch has one image, from which the gate of ONE cannot learn"):
        small()(torch.randn(1, 2, 8, 8))
    assert small().eval()(torch.randn(1, 2, 8, 8)).ensemble.shape == (1, 5)


# -- the loss


def test_loss_of_classifiers_that_know_nothing():
    zeros = torch.zeros(3, 4, 10)
    ensemble = NativeEnsemble(2, 10, depth=8)
    loss = ensemble.loss(Answers(zeros, zeros[0]), torch.tensor([0, 3, 9, 9]))
    assert loss.item() == pytest.approx(5 * math.log(10) - math.log(10), abs=1e-5)  # 9.2103


def test_loss_and_its_gradients_by_the_formula():
    ensemble = small()
    ensemble.distilled = 0.3
    branches = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3])
    ensemble.loss(Answers(branches, teacher), target).backward()
    onehot = functional.one_hot(target, 5)
    soft = (teacher / 3).softmax(1)
    expected = (branches.softmax(2) - onehot) / 4 + 0.3 * 3 * ((branches / 3).softmax(2) - soft) / 4
    torch.testing.assert_close(branches.grad, expected.detach(), rtol=0, atol=1e-14)
    torch.testing.assert_close(teacher.grad, (teacher.softmax(1) - onehot).detach() / 4, rtol=0, atol=1e-14)


def test_distillation_teaches_the_gate_nothing():
    ensemble = small()
    answers = ensemble(torch.randn(4, 2, 8, 8))
    distillation(answers.branches[1], answers.ensemble, 3.0).backward()
    assert all(parameter.grad is None for parameter in ensemble.gate.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(depth=30), "depth=30 must be 6 n \\+ 2"),
        (dict(depth=2), "depth=2 must be at least 8"),
        (dict(block="wide"), "block='wide' is unknown; use 'basic' or 'bottleneck'"),
        (dict(branches=1), "branches=1 makes no ensemble; use at least 2"),
        (dict(branches=2.5), "branches=2.5 must be a whole number"),
        (dict(temperature=0), "temperature=0 must be positive; the paper's is 3"),
        (dict(predicts="one"), "predicts='one' is unknown; use 'target' or 'ensemble'"),
    ],
)
def test_options_that_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(**options)
