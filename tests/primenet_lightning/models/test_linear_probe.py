"""The linear probe, against a plain loop in torch; see also the tests of phase 2."""

import copy

import pytest
import torch
from tiny import SGDStep
from torch import nn
from torch.nn.functional import cross_entropy

from primenet_lightning import LinearProbe, NonFiniteError

COUNTED_AT_ONCE = 100


def make_probe(rate=0.1):
    """A probe on a frozen layer."""
    torch.manual_seed(0)
    return LinearProbe(5, 3, backbone=nn.Linear(5, 5), optimizer=SGDStep(rate))


def make_batches(count):
    """Of two and three features in turn, which have their label in them."""
    generator, batches = torch.Generator().manual_seed(1), []
    for number in range(count):
        target = torch.randint(3, (2 + number % 2,), generator=generator)
        noise = torch.randn(len(target), 5, generator=generator)
        batches.append((noise + 2 * nn.functional.one_hot(target, 5), target))
    return batches


@pytest.mark.parametrize("count", [1, COUNTED_AT_ONCE, COUNTED_AT_ONCE + 3])
def test_every_image_counts_once_however_many_are_counted_together(count, make_trainer, loader):
    model, batches = make_probe(), make_batches(count)
    frozen, plain = copy.deepcopy(model.backbone), copy.deepcopy(model.classifier)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    right, images, loss_sum = 0, 0, 0.0
    for x, target in batches:
        logits = plain(frozen(x))
        loss = cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right, images = right + (logits.argmax(1) == target).sum().item(), images + len(target)
        loss_sum += loss.item() * len(target)
    trainer = make_trainer()
    trainer.fit(model, loader(batches))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    expected = {"train/accuracy": right / images, "train/error": 100 * (1 - right / images)}
    assert logged == pytest.approx(expected | {"train/loss/head": loss_sum / images}, abs=1e-4)
    assert torch.equal(model.classifier.weight, plain.weight)
    assert torch.equal(model.backbone.weight, frozen.weight)
    (group,) = model.configure_optimizers().param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(p) for p in model.classifier.parameters()]


def test_an_aborted_fit_leaves_nothing_in_the_next_ones_counts(make_trainer, loader):
    model, batches = make_probe(rate=0.0), make_batches(4)
    broken = [*batches[:3], (torch.full((2, 5), torch.nan), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(NonFiniteError, match="the loss of head is nan at step 3, learning rate 0: "):
        make_trainer().fit(model, loader(broken))
    trainer = make_trainer()
    trainer.fit(model, loader(batches[3:]))
    x, target = batches[3]
    assert float(trainer.callback_metrics["train/loss/head"]) == pytest.approx(cross_entropy(model(x), target).item())


def test_a_probe_stops_before_the_update_too(make_trainer, loader):
    probe = LinearProbe(5, 3, optimizer=SGDStep(1e38))
    with pytest.raises(NonFiniteError, match=r"the loss of head is (nan|inf) at step \d, learning rate 1e\+38"):
        make_trainer().fit(probe, loader(make_batches(9)))
    assert all(bool(parameter.isfinite().all()) for parameter in probe.parameters())
