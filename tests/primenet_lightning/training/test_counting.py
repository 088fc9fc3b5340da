import pytest
import torch

from primenet_lightning.training.counting import EpochLosses, LearnerMetrics


def test_counts_over_batches_of_different_sizes_and_forgets():
    metrics = LearnerMetrics(["block0.k3", "head"], 3)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (10,), generator=generator)
    logits = torch.randn(10, 3, generator=generator)
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    for part in (slice(0, 7), slice(7, 10)):
        metrics.update({"head": logits[part]}, target[part], {"head": losses[part].mean()})
    right = (logits.argmax(1) == target).double().mean().item()
    results = metrics.compute()
    assert results.keys() == {"accuracy", "error", "loss/head"}
    assert results["accuracy"].item() == pytest.approx(right)
    assert results["error"].item() == pytest.approx(100 * (1 - right), rel=1e-5)
    assert results["loss/head"].item() == pytest.approx(losses.mean().item())
    metrics.reset()
    assert metrics.compute() == {}


def test_losses_of_an_epoch_are_averaged_over_its_images_and_go_on_from_a_checkpoint():
    batches = [({"k3": 1.0, "head": 3.0}, 20), ({"k3": 2.0, "head": 1.0}, 20), ({"head": 2.0}, 15)]  # k3 was pruned
    whole, first = EpochLosses(), EpochLosses()
    for values, images in batches:
        whole.add(values, images)
    assert whole.means() == {"k3": pytest.approx(1.5), "head": pytest.approx((60 + 20 + 30) / 55)}
    first.add(*batches[0])
    resumed = EpochLosses()
    resumed.load_state_dict(first.state_dict())
    first.reset()
    for values, images in batches[1:]:
        resumed.add(values, images)
    assert resumed.means() == whole.means()
    assert first.means() == {}
