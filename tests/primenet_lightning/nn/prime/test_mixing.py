"""What routers make of all maps, by hand on made-up losses and maps."""

import pytest
import torch
from routed import MAPS, X, routed_batch, routed_block
from torch import nn
from torch.nn import functional

from primenet_lightning import local_targets
from primenet_lightning.nn.numbers import WHOLE
from primenet_lightning.nn.prime.mixing import Concatenate, Gate, Mean


def test_concatenate_and_mean_by_hand():
    assert Concatenate().select(X, MAPS, 1)[0].flatten().tolist() == [1, 2, 6]
    assert Concatenate().out_channels(8, capsules=3) == 24
    assert Mean().select(X, MAPS, 1).flatten().tolist() == [3, 3]
    assert Mean().out_channels(8, capsules=3) == 8


class _Scores(nn.Module):
    """Scores that a test chooses, instead of a gate's classifier."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, x):
        return self.scores[: len(x)]


def _gate(per, scores):
    gate = Gate(per)
    gate.build((3, 4, 4), capsules=3)
    gate.classifier = _Scores(scores)
    return gate


def test_gate_by_sample_takes_each_image_by_itself():
    gate = _gate("sample", [[0.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    index = gate.decide(X, 0)
    assert (index, gate.taken(X, MAPS, index).tolist()) == (0, [1, 2])
    assert gate.select(X, MAPS, index).flatten().tolist() == [2, 6]


def test_gate_by_batch_takes_the_largest_mean():
    gate = _gate("batch", [[0.0, 1.0, 0.0], [0.0, 1.0, 1.5]])
    index = gate.decide(X, 0)
    assert (index, gate.taken(X, MAPS, index).tolist()) == (1, [1, 1])
    assert gate.select(X, MAPS, index).flatten().tolist() == [2, 2]


def test_gate_by_batch_decides_by_the_mean_over_processes():
    class Half:  # the other process has scores of its own
        weight, any = 0.5, WHOLE.any

        def mean(self, scores):
            return scores + torch.tensor([0.0, 0.0, 2.0])

    gate = _gate("batch", [[0.0, 1.0, 0.0]] * 2)
    assert (gate.decide(X, 0), gate.decide(X, 0, Half())) == (1, 2)


@pytest.mark.parametrize(("per", "best"), [("sample", [2, 1]), ("batch", [1, 1])])
def test_gate_learns_to_name_the_least_loss(per, best):
    """Losses by capsule and image: the first image has its least in capsule 2, the batch in capsule 1."""
    losses, scores = torch.tensor([[3.0, 3.0], [1.0, 0.0], [0.5, 2.0]]), torch.randn(2, 3)
    gate = _gate(per, scores.tolist())
    expected = -scores.log_softmax(1)[torch.arange(2), torch.tensor(best)].mean()
    torch.testing.assert_close(gate.loss(X, losses), expected)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gate_computes_at_inference_what_it_selects_of_all_maps(per):
    torch.manual_seed(0)
    gate = Gate(per)
    gate.build((3, 4, 4), capsules=3)
    x, layers = torch.randn(20, 3, 4, 4), [nn.Conv2d(3, 2, 1) for _ in range(3)]
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    taken = gate(x).argmax(1).bincount(minlength=3)
    inferred = gate.infer(x, layers, 0)
    # each image, or the batch, is computed once
    assert sum(seen) == 20
    assert per == "batch" or (sorted(seen) == sorted(n for n in taken.tolist() if n) and len(seen) > 1)
    torch.testing.assert_close(inferred, gate.select(x, [layer(x) for layer in layers], gate.decide(x, 0)))


def test_gate_has_a_loss_of_its_own_that_reaches_nothing_else():
    block, (x, target) = routed_block(Gate()), routed_batch()
    output = block(x, target)
    assert list(output.losses) == ["k3", "k5", "k7", "projection", "gate"]
    assert "gate" not in output.logits
    output.losses["gate"].backward()
    reached = {name.split(".")[0] for name, p in block.named_parameters() if p.grad is not None}
    assert reached == {"router"}
    # by hand: the capsules' cross-entropies, image by image
    each = torch.stack([functional.cross_entropy(output.logits[k], target, reduction="none") for k in block.capsules])
    expected = functional.cross_entropy(block.router(x), each.argmin(0))
    torch.testing.assert_close(output.losses["gate"], expected)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gate_never_sees_a_label_in_evaluation(per):
    """With other labels the same maps go on; nor would it matter if the losses were others."""
    block, (x, target) = routed_block(Gate(per)).eval(), routed_batch()
    with torch.no_grad():
        without = block(x)
        features = [block(x, labels).features for labels in (target, (target + 1) % 3, torch.zeros_like(target))]
        with local_targets(target):
            inside = block(x)
    for seen in (*features, inside):
        torch.testing.assert_close(seen, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gate_learns_the_same_whenever_it_goes_backward(per):
    """At once, before the next block runs, or with all others."""
    gradients = []
    for at_once in (True, False):
        block, (x, target) = routed_block(Gate(per)), routed_batch()
        losses = []
        for output in block.run_learners(x, target):
            if at_once:
                output.loss.backward()
            losses.append(output.loss)
        assert output.learner == "gate"
        if not at_once:
            sum(losses).backward()
        gradients.append({name: p.grad for name, p in block.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_gate_takes_no_images_and_is_exported():
    block, (x, _) = routed_block(Gate()).eval(), routed_batch()
    assert block(x[:0]).shape == (0, *block.out_shape)
    with torch.no_grad():
        exported = torch.export.export(block, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), block(x))
