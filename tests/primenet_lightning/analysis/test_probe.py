import copy

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.linear_model import LogisticRegression
from tiny import Plain, SGDStep, TinyData, make_model, same, state
from torch import nn
from torch.nn.functional import cross_entropy

from primenet_lightning import NonFiniteError
from primenet_lightning.analysis.features import feature_extractor
from primenet_lightning.analysis.probe import (
    epochs_until_converged,
    fit_finetuned,
    fit_probe,
    logistic_regression,
)
from primenet_lightning.datamodules.features import FeatureDataModule, SplitFeatures
from primenet_lightning.models.linear_probe import LinearProbe


def make_splits(sizes=(90, 40, 50), features=5, classes=3, seed=0):
    """Classes that overlap, so that the best classifier is a finite one."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, features, generator=generator)

    def split(size):
        labels = torch.randint(classes, (size,), generator=generator)
        return SplitFeatures(centres[labels] + 1.5 * torch.randn(size, features, generator=generator), labels)

    return {name: split(size) for name, size in zip(("train", "validation", "test"), sizes, strict=True)}


def errors(weights, split):
    weight, bias = weights
    return 100 * (split.features @ weight.T + bias).argmax(1).ne(split.labels).double().mean().item()


# -- the gradient stops at the features


def make_backbone():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))


@pytest.mark.parametrize("finetune", [False, True])
def test_gradient_stops_at_frozen_features_and_crosses_thawed_ones(silent, finetune):
    backbone = make_backbone()
    before = copy.deepcopy(backbone.state_dict())
    probe = LinearProbe(16, 3, backbone, finetune, optimizer=SGDStep(0.1))
    linear = probe.classifier.weight.detach().clone()
    Trainer(**silent).fit(probe, TinyData(batch_size=25))
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert not torch.equal(probe.classifier.weight, linear)
    assert moved == (set(before) if finetune else set())
    assert all(p.grad is None for p in backbone.parameters()) or finetune
    probe.train()
    images = torch.randn(4, 2, 8, 8, requires_grad=True)
    probe(images).sum().backward()
    assert (images.grad is not None) == finetune == backbone.training
    learning = {id(p) for group in probe.configure_optimizers().param_groups for p in group["params"]}
    assert learning == {id(p) for p in (probe if finetune else probe.classifier).parameters()}


def test_features_that_are_given_get_no_gradient_either():
    features = torch.randn(4, 5, requires_grad=True)
    LinearProbe(5, 3)(features).sum().backward()
    assert features.grad is None


# -- what is learned


class Rates:
    """Adam of a large learning rate: the validation error goes up and down."""

    def __call__(self, parameters):
        return torch.optim.Adam(parameters, lr=0.3)


def test_probe_equals_a_plain_loop_and_is_tested_on_its_best_epoch():
    splits, state_before = make_splits(), torch.get_rng_state()
    epochs_seen = []
    result = fit_probe(splits, 3, 8, 20, seed=4, optimizer=Rates(), logistic=False, on_epoch=epochs_seen.append)
    assert epochs_seen == list(range(1, 9))
    assert torch.equal(torch.get_rng_state(), state_before)

    torch.manual_seed(4)
    linear = LinearProbe(5, 3).classifier
    optimizer = Rates()(linear.parameters())
    loader, history = FeatureDataModule(splits, 20, seed=4).train_dataloader(), []
    for epoch in range(8):
        loader.sampler.set_epoch(epoch)
        right, losses = 0, []
        for features, labels in loader:
            logits = linear(features)
            loss = cross_entropy(logits, labels)
            right += (logits.argmax(1) == labels).sum().item()
            losses += [loss.item()] * len(labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights = linear.weight.detach().clone(), linear.bias.detach().clone()
        history.append((errors(weights, splits["validation"]), weights, 100 * right / 90, np.mean(losses)))
    validation = [one[0] for one in history]
    best = validation.index(min(validation))
    assert best < 7  # or the test would not see whether the best is taken
    assert result.validation_error == pytest.approx(validation[best], abs=1e-4)
    assert result.test_error == pytest.approx(errors(history[best][1], splits["test"]), abs=1e-4)
    assert result.validation_accuracy == pytest.approx([100 - error for error in validation], abs=1e-4)
    assert result.train_accuracy == pytest.approx([one[2] for one in history], abs=1e-4)
    assert result.train_loss == pytest.approx([one[3] for one in history], abs=1e-5)
    assert result.num_features == 5
    assert result.logistic_test_error is None


def test_probe_converges_to_scikit_learns_logistic_regression(silent):
    splits = make_splits()
    train, test = splits["train"], splits["test"]
    probe = LinearProbe(5, 3, optimizer=torch.optim.Rprop)
    trainer = Trainer(**(silent | dict(max_epochs=150, limit_val_batches=0)))
    trainer.fit(probe, FeatureDataModule(splits, batch_size=90))  # all images in a batch: the slope has no noise
    theirs = LogisticRegression(C=1e8, tol=1e-8, max_iter=1000).fit(train.features.numpy(), train.labels.numpy())
    probabilities = torch.from_numpy(theirs.predict_proba(test.features.numpy())).float()
    assert torch.allclose(probe(test.features).softmax(1), probabilities, atol=1e-3)
    loss = float(cross_entropy(torch.from_numpy(theirs.decision_function(train.features.numpy())), train.labels))
    assert cross_entropy(probe(train.features), train.labels).item() == pytest.approx(loss, abs=1e-5)


def test_logistic_regression_minimises_its_stated_objective():
    splits = make_splits(sizes=(90, 40, 400))
    train = splits["train"].features
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scaled = {n: SplitFeatures((s.features - mean) / deviation, s.labels) for n, s in splits.items()}
    linear = nn.Linear(5, 3)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        loss = cross_entropy(linear(scaled["train"].features), scaled["train"].labels, reduction="sum")
        loss = loss + linear.weight.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(objective)
    expected = errors((linear.weight.detach(), linear.bias.detach()), scaled["test"])
    assert logistic_regression(splits) == pytest.approx(expected, abs=0.5)  # one image of 400 may lie on the border
    one = fit_probe(splits, 3, epochs=1)
    assert one.logistic_test_error == logistic_regression(splits)


def test_fine_tuning_learns_end_to_end_and_leaves_the_model_alone():
    model, data = make_model(Plain, depth=2), TinyData(batch_size=7, seed=2)
    model.network.history.append((1, 2))
    before = state(model)
    result = fit_finetuned(model, data, epochs=3, batch_size=25, seed=6, optimizer=SGDStep(0.1))
    assert same(state(model), before)
    assert (data.batch_size, data.seed, data.trainer) == (7, 2, None)

    # the same by hand: routed capsules in a row, one loss, plain SGD
    copied, width = copy.deepcopy(model.network), model.network.head[3].in_features
    first, second = copied.prime_blocks
    torch.manual_seed(6)
    linear = LinearProbe(width, 3).classifier
    optimizer = torch.optim.SGD([*copied.parameters(), *linear.parameters()], lr=0.1)
    again = TinyData(batch_size=25, seed=2)
    again.setup()
    again.seed = 6
    loader, expected = again.train_dataloader(), []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        losses = []
        for images, labels in loader:
            x = again.normalize(images)
            x = torch.cat([first.capsules["k3"].features(x), first.projection(x)], 1)
            x = nn.functional.max_pool2d(x, 2)
            x = torch.cat([second.capsules["k5"].features(x), second.projection(x)], 1)
            loss = cross_entropy(linear(copied.head[:3](x)), labels)
            losses += [loss.item()] * len(labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected.append(np.mean(losses))
    assert result.train_loss == pytest.approx(expected, abs=1e-4)
    assert result.train_loss[-1] < result.train_loss[0]
    assert result.num_features == width


# -- numbers and sentences


@pytest.mark.parametrize(
    ("accuracies", "epochs"),
    [
        ([97.0], 1),
        ([98.0, 98.0, 98.0], 1),
        ([90.0, 97.9, 98.0], 2),  # exactly 0.1 away counts, whatever binary fractions say
        ([90.0, 97.95, 97.5, 98.0], 4),  # near, and away again
        ([99.0, 98.05, 98.0], 2),  # from above
        ([10.0, 50.0, 90.0], 3),
    ],
)
def test_epochs_until_converged(accuracies, epochs):
    assert epochs_until_converged(accuracies) == epochs
    assert epochs_until_converged(accuracies, within=100) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: epochs_until_converged([]), "accuracies=.* is empty"),
        (lambda: epochs_until_converged([1.0], within=-1), "within=-1 must not be negative"),
        (lambda: LinearProbe(5, 3, finetune=True), "finetune=True has nothing to unfreeze"),
        (lambda: LinearProbe(0, 3), "num_features=0 must be at least 1"),
        (lambda: LinearProbe(5, 1), "num_classes=1 must be at least 2"),
        (lambda: LinearProbe(5, 3)(torch.zeros(2, 4)), r"shape \(2, 4\), but num_features=5"),
        (lambda: fit_probe(make_splits(), 3, epochs=0), "epochs=0 must be at least 1"),
        (lambda: fit_probe(make_splits(), 3, batch_size=0), "batch_size=0 must be at least 1"),
        (lambda: fit_finetuned(make_model(), TinyData(), seed=-1), "seed=-1 is out of range"),
    ],
)
def test_bad_arguments(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_loss_that_is_not_finite_stops_the_fit():
    with pytest.raises(NonFiniteError, match="the loss of head is"):
        fit_probe(make_splits(), 3, epochs=2, optimizer=SGDStep(1e38), logistic=False)


def probe_on(folder, **options):
    """Fit and test on images of a frozen network; the classifier's weights, and all metrics."""
    torch.manual_seed(0)
    backbone = feature_extractor(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)))
    probe = LinearProbe(4, 3, backbone, optimizer=SGDStep(0.5))
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(
        **quiet, accelerator="cpu", num_sanity_val_steps=0, max_epochs=2, default_root_dir=folder, **options
    )
    trainer.fit(probe, FeatureDataModule(make_splits(sizes=(96, 40, 50)), batch_size=32))
    return probe.classifier.weight.detach(), {name: float(value) for name, value in trainer.callback_metrics.items()}


def probe_on_ranks(folder):
    return probe_on(folder, devices=2, strategy="ddp")


def test_two_processes_learn_as_one(ranks, tmp_path):
    (weight, metrics), (other, _) = ranks(probe_on_ranks, tmp_path)
    expected, expected_metrics = probe_on(tmp_path, devices=1)
    assert torch.equal(weight, other)
    assert torch.allclose(weight, expected, atol=1e-6)
    assert metrics == pytest.approx(expected_metrics, abs=1e-4)
    assert {"train/error", "train/accuracy", "train/loss/head", "val/loss/head", "val/error"} <= metrics.keys()
