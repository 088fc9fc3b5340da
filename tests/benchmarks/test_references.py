"""What the benchmarks measure against computes what it says."""

import pytest
import references
import torch
import training
from stepping import run_stages
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import CompositeOptimizer, PaperAdam, PrimeNetwork, architecture
from primenet_lightning.analysis.cost import count_training


@pytest.mark.parametrize(
    ("size", "shape"), [("compact", (1, 28, 28)), ("compact", (3, 32, 32)), ("paper", (3, 12, 12))], ids=str
)
def test_our_step_and_the_naive_loop_train_to_the_same_parameters(size, shape):
    torch.manual_seed(0)
    widths = architecture(size, shape[1:])
    network = PrimeNetwork.build(shape[0], shape[1:], 10, widths).double()
    plain = references.PlainPrimeNet(shape, widths).double().copy_from(network)
    naive = references.naive(plain)
    optimizer = CompositeOptimizer({name: PaperAdam(parameters) for name, parameters in network.learners().items()})
    for _ in range(6):
        images, target = torch.randn(10, *shape, dtype=torch.float64), torch.randint(10, (10,))
        naive(images, target)
        for stage in run_stages(network, images, target):
            torch.autograd.backward(list(stage.losses.values()))
        optimizer.step()
        optimizer.zero_grad()
    trained = references.PlainPrimeNet(shape, widths).double().copy_from(network)
    for p, q in zip(plain.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9)


def test_the_naive_step_takes_the_multiply_adds_of_the_architecture():
    shape = (3, 32, 32)
    widths = architecture("compact", shape[1:])
    step = references.naive(references.PlainPrimeNet(shape, widths))
    with FlopCounterMode(display=False) as counter:
        step(torch.randn(2, *shape), torch.tensor([0, 1]))
    network = PrimeNetwork.build(*shape[:1], shape[1:], 10, widths)
    assert counter.get_total_flops() // 4 == count_training(network)


def test_end_to_end_is_the_mean_of_all_maps_beside_the_projection():
    shape = (3, 16, 16)
    widths = architecture("compact", shape[1:])
    network = PrimeNetwork.build(*shape[:1], shape[1:], 10, widths).double()
    plain = references.PlainPrimeNet(shape, widths).double().copy_from(network)
    images = torch.randn(4, *shape, dtype=torch.float64)
    ours = references.mean_and_projection(network.prime_blocks[0], images)
    mean = sum(features(images) for features in plain.features) / 3
    torch.testing.assert_close(ours, torch.cat([mean, plain.projection(images)], 1))
    network.head(ours).sum().backward()
    assert all(p.grad is not None for p in network.prime_blocks[0].capsules["k3"].features.parameters())


def test_deep_supervision_has_the_gradients_of_local_learning_and_of_backprop():
    """Gradients of a sum of losses are the sum of their gradients."""
    shape = (3, 16, 16)
    widths = architecture("compact", shape[1:])
    network = PrimeNetwork.build(*shape[:1], shape[1:], 10, widths).double()
    images, target = torch.randn(4, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    (block,) = network.prime_blocks

    def gradients(*losses):
        network.zero_grad()
        sum(losses).backward()
        return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}

    head = functional.cross_entropy(network.head(references.mean_and_projection(block, images)), target)
    of_backprop = gradients(head)
    of_capsules = gradients(*(functional.cross_entropy(capsule(images)[1], target) for capsule in block.in_order))
    network.zero_grad()
    training.deeply_supervised(network)(images, target)
    for name, parameter in network.named_parameters():
        expected = sum(part[name] for part in (of_backprop, of_capsules) if name in part)
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-12)
