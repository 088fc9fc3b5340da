import pytest
import torch

from primenet_lightning.training.counting import LearnerMetrics


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
