"""MSDNet and IMTA under the Trainer: they learn, spend a budget, resume, share out batches, and predict."""

import copy
import math
from functools import partial

import pytest
import short_fits
import torch
from short_fits import resumed_differences, without_norms
from tiny import SGDStep, TinyData, make_trainer
from torch.nn import functional
from torch.optim import SGD

from primenet_lightning import PrimeNet, count_cost
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import IMTA, MSDNet
from primenet_lightning.datamodules import DigitsDataModule

SMALL = dict(exits=3, scales=2, channels=4, growth=2, exit_channels=6)
TINY = dict(in_channels=2, image_size=(8, 8), num_classes=3, **SMALL)
STEP = SGDStep(0.05)


def fit(folder, model, data=None, callbacks=(), **options):
    trainer = make_trainer(folder, callbacks, **options)
    trainer.fit(model, TinyData(batch_size=20) if data is None else data)
    return trainer


@pytest.fixture(scope="module")
def first_phase(tmp_path_factory):
    """A checkpoint of MSDNet after an epoch in equilibrium."""
    folder = tmp_path_factory.mktemp("first")
    torch.manual_seed(3)
    trainer = fit(folder, MSDNet(equilibrium="coarsest", optimizer=STEP, **TINY))
    trainer.save_checkpoint(folder / "first.ckpt")
    return str(folder / "first.ckpt")


def test_both_phases_learn_digits_and_images_leave_by_the_budget(tmp_path):
    """Chance is an error of 90 %."""
    digits = DigitsDataModule(batch_size=32)
    nesterov = partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    options = dict(in_channels=1, image_size=(8, 8), exits=3, scales=2, channels=8, growth=4, exit_channels=16)
    options |= dict(optimizer=nesterov, schedule="cosine", budget=60_000)
    first = MSDNet(equilibrium="coarsest", **options)
    trainer = fit(tmp_path, first, digits, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = IMTA(trained=str(tmp_path / "first.ckpt"), **options)
    trainers = [trainer, fit(tmp_path, second, digits, max_epochs=1)]
    for trainer, model in zip(trainers, (first, second), strict=True):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for name in ("error/exit0", "error/exit1", "error", "budget/error"):
            assert metrics[f"val/{name}"] < 20
        images = len(digits.validation_dataset)
        above = metrics["val/budget/multiply_adds"] - 60_000
        assert -1 <= above <= 2 * (model.exit_costs[-1] - model.exit_costs[0]) / images
        (result,) = trainer.test(model, digits, verbose=False)
        assert result["test/budget/error"] < 20
        assert model.exit_costs[0] < result["test/budget/multiply_adds"] < model.exit_costs[1]


def test_validation_finds_thresholds_that_are_predicted_by(tmp_path):
    """Against a computation image by image from the model's own answers."""
    model = MSDNet(budget=40_000, optimizer=STEP, **TINY)
    costs = model.exit_costs
    assert costs[0] < 40_000 < costs[-1]
    trainer = fit(tmp_path, model)
    data = trainer.datamodule
    images, labels = data.validation_dataset[torch.arange(8)]
    images = data.normalize(images)
    model.eval()
    paid, wrong = 0, 0
    with torch.no_grad():
        answers, given = model.network.model(images), model(images)
        for row in range(8):
            sure = [
                float(logits[row].softmax(0).max()) >= limit
                for logits, limit in zip(answers, model.thresholds, strict=True)
            ]
            place = sure.index(True)
            torch.testing.assert_close(given[row], answers[place][row])
            paid, wrong = paid + costs[place], wrong + int(answers[place][row].argmax() != labels[row])
    assert trainer.callback_metrics["val/budget/multiply_adds"] == pytest.approx(paid / 8)
    assert trainer.callback_metrics["val/budget/error"] == pytest.approx(100 * wrong / 8)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    loaded = load_model(tmp_path / "it.ckpt")
    assert loaded.thresholds == model.thresholds
    assert torch.equal(loaded(images), given)


def test_without_a_budget_the_last_exit_answers(tmp_path):
    model = MSDNet(optimizer=STEP, **TINY)
    trainer = fit(tmp_path, model)
    assert model.thresholds is None
    assert "val/budget/error" not in trainer.callback_metrics
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(model.eval()(x), model.network.model(x)[-1])
    for kind in (MSDNet, IMTA):
        model = kind(**TINY)
        assert count_cost(model.network).multiply_adds_inference == model.exit_costs[-1]


def test_a_trained_model_takes_another_budget(tmp_path):
    trainer = fit(tmp_path, MSDNet(budget=40_000, optimizer=STEP, **TINY))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    path = tmp_path / "it.ckpt"
    model = MSDNet.load_from_checkpoint(path, weights_only=True, budget=60_000)
    assert model.thresholds is None
    with pytest.raises(ValueError, match="budget=60000 has no thresholds yet"):
        model.eval()(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"has no thresholds yet.* call Trainer\.validate\(model, data\) first"):
        make_trainer(tmp_path).test(model, trainer.datamodule, verbose=False)
    (result,) = make_trainer(tmp_path).validate(model, trainer.datamodule, verbose=False)
    assert len(model.thresholds) == 3
    above = result["val/budget/multiply_adds"] - 60_000
    assert -1e-3 <= above <= 2 * (model.exit_costs[-1] - model.exit_costs[0]) / 8
    anytime = MSDNet.load_from_checkpoint(path, weights_only=True, budget=40_000, prediction="anytime")
    assert anytime.thresholds == [math.inf, -math.inf, -math.inf]


def test_anytime_all_leave_at_the_last_exit_that_can_be_paid(tmp_path):
    costs = MSDNet(**TINY).exit_costs
    model = MSDNet(**TINY, optimizer=STEP, budget=costs[2] - 1, prediction="anytime")
    trainer = fit(tmp_path, model)
    assert trainer.callback_metrics["val/budget/multiply_adds"] == costs[1]
    assert trainer.callback_metrics["val/budget/error"] == trainer.callback_metrics["val/error/exit1"]
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(model.eval()(x), model.network.model(x)[1])
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    torch.testing.assert_close(load_model(tmp_path / "it.ckpt")(x), model(x))


def test_imta_predicts_from_its_checkpoint_alone(first_phase, tmp_path):
    model = IMTA(trained=first_phase, optimizer=STEP, **TINY)
    frozen = copy.deepcopy(model.network.model.trained.state_dict())
    trainer = fit(tmp_path, model)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    assert torch.load(tmp_path / "it.ckpt", weights_only=True)["hyper_parameters"]["trained"] is None
    loaded = load_model(tmp_path / "it.ckpt")
    x = torch.randn(3, 2, 8, 8)
    assert torch.equal(loaded(x), model.eval()(x))
    first = MSDNet.load_from_checkpoint(first_phase, weights_only=True).network.model.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in first.items())
    after = model.network.model.trained.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in after.items())
    assert fit(tmp_path, loaded).global_step == 4  # what was loaded may be trained on


def test_a_budget_does_not_disturb_what_looks_at_the_model_as_a_fit_begins(tmp_path):
    """Lightning's summary calls the model before there was a validation."""
    model = MSDNet(**TINY, optimizer=STEP, budget=40_000)
    fit(tmp_path, model, enable_model_summary=True, max_epochs=1)
    assert model.thresholds is not None


def test_a_second_phase_goes_on_without_the_first(first_phase, tmp_path):
    begun = short_fits.fit(IMTA(trained=first_phase, optimizer=STEP, **TINY), tmp_path, (short_fits.Crash(3),))
    resumed = short_fits.fit(IMTA(optimizer=STEP, **TINY), tmp_path, ckpt_path=begun["file"])
    assert resumed["global_step"] == 8


@pytest.mark.parametrize("kind", ["msdnet", "imta"])
def test_a_run_that_crashed_in_an_epoch_goes_on_bit_for_bit(kind, first_phase, tmp_path):
    options = TINY | dict(optimizer=partial(SGD, lr=0.05, momentum=0.9), schedule="cosine", budget=40_000)

    def build():
        torch.manual_seed(3)
        return MSDNet(equilibrium="all", **options) if kind == "msdnet" else IMTA(trained=first_phase, **options)

    by_step = resumed_differences(build, tmp_path, [2, 6])
    assert not any(by_step.values()), by_step


class Unnormed:
    """No batch norms: the training does not depend on how a batch is shared out."""

    def configure_backbone(self):
        return without_norms(super().configure_backbone())


class UnnormedMSDNet(Unnormed, MSDNet):
    pass


class UnnormedIMTA(Unnormed, IMTA):
    pass


def two_epochs(folder, devices, kind, phase=None, normed=False):
    strategy = "ddp" if devices > 1 else "auto"
    options = TINY | dict(optimizer=STEP, budget=40_000 if normed else 25_000)
    torch.manual_seed(3)
    if kind == "msdnet":
        model = (MSDNet if normed else UnnormedMSDNet)(equilibrium="all", **options)
    else:
        model = IMTA(trained=phase, **options) if normed else UnnormedIMTA(**options)
    trainer = fit(folder, model, devices=devices, strategy=strategy, precision="64-true", max_epochs=2)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value.detach() for name, value in model.state_dict().items()}, metrics, model.thresholds


@pytest.mark.parametrize("kind", ["msdnet", "imta"])
def test_two_processes_train_and_find_what_one_does(kind, ranks, tmp_path):
    """Of 75 images the last batch has 15, which two cannot share evenly."""
    weights, metrics, thresholds = two_epochs(tmp_path, 1, kind)
    first, second = ranks(two_epochs, tmp_path, 2, kind)
    assert first[1:] == second[1:]
    assert first[1] == pytest.approx(metrics)
    assert first[2] == pytest.approx(thresholds)
    for name, value in weights.items():
        torch.testing.assert_close(first[0][name], value, rtol=0, atol=1e-9)
        assert torch.equal(first[0][name], second[0][name])


@pytest.mark.parametrize("kind", ["msdnet", "imta"])
def test_two_processes_with_batch_norms_agree(kind, first_phase, ranks, tmp_path):
    """On weights, thresholds and metrics; the second phase begins with the first one's weights on both."""
    first, second = ranks(two_epochs, tmp_path, 2, kind, first_phase, True)
    assert first[1:] == second[1:]
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    frozen = [name for name in first[0] if ".trained." in name]
    begun = torch.load(first_phase, weights_only=True)["state_dict"]
    assert bool(frozen) == (kind == "imta")
    for name in frozen:
        before = begun[name.replace(".trained.", ".")]
        torch.testing.assert_close(first[0][name].to(before.dtype), before)


def other_network(folder):
    trainer = fit(folder, PrimeNet(in_channels=2, image_size=(8, 8), num_classes=3, channels=4))
    trainer.save_checkpoint(folder / "prime.ckpt")
    return str(folder / "prime.ckpt")


def test_what_cannot_be_is_refused_in_a_sentence(first_phase, tmp_path):
    tiny = TINY
    refused = [
        (lambda: MSDNet(**tiny | dict(exits=0)), "exits=0 must be at least 1"),
        (lambda: MSDNet(**tiny | dict(spacing="odd")), "spacing='odd' is unknown"),
        (lambda: MSDNet(**tiny, equilibrium="finest"), "equilibrium='finest' is unknown"),
        (
            lambda: MSDNet(**tiny, budget=10),
            r"budget=10 is below \d+, what an image costs that leaves at the first exit",
        ),
        (lambda: MSDNet(**tiny, budget=math.nan), "budget=nan is below"),
        (lambda: MSDNet(**tiny, backward="learner"), "backward='learner' cannot be: exits share layers"),
        (lambda: MSDNet(**tiny, prediction="anytime"), "prediction='anytime' has no budget to keep to"),
        (lambda: MSDNet(**tiny, budget=4e4, prediction="never"), "prediction='never' is unknown; use one of"),
        (lambda: IMTA(**tiny, teaching=2), "teaching=2 must be from 0"),
        (lambda: IMTA(**tiny, temperature=0), "temperature=0 must be above 0"),
        (lambda: IMTA(**tiny, teaching=0, temperature=2), "temperature=2 has nothing to do with teaching=0; leave"),
        (
            lambda: IMTA(trained=first_phase, **tiny | dict(image_size=(16, 16))),
            r"image_size=\(16, 16\), but trained=.* learned from images of \(8, 8\); give the same",
        ),
        (
            lambda: IMTA(trained=first_phase, **tiny | dict(growth=4)),
            "growth=4, but trained=.* has growth=2; give the s",
        ),
        (
            lambda: IMTA(trained=other_network(tmp_path), **tiny),
            "trained=.* is of .*PrimeNet; give the run",
        ),
        (
            lambda: fit(tmp_path, IMTA(**tiny)),
            "trained=None leaves the frozen layers as they were drawn; train an MSDN",
        ),
        (
            lambda: fit(tmp_path, MSDNet(**tiny, budget=4e4), limit_val_batches=0),
            "budget=40000.0 needs images held out",
        ),
    ]
    for call, sentence in refused:
        with pytest.raises(ValueError, match=sentence):
            call()
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(ValueError, match=r"trained=.*empty\.ckpt cannot be read .*; give the run of an MSDNet"):
        IMTA(trained=str(tmp_path / "empty.ckpt"), **tiny)
    with pytest.raises(FileNotFoundError):
        IMTA(trained=str(tmp_path / "nowhere"), **tiny)


def test_layers_that_are_frozen_see_pixels_normalised_as_they_learned(tmp_path):
    phase = dict(exits=2, scales=2, channels=4, growth=2, exit_channels=6, image_size=(8, 8), optimizer=STEP)
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(MSDNet(in_channels=1, **phase), DigitsDataModule(normalization="standardize"))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = IMTA(in_channels=1, trained=str(tmp_path / "first.ckpt"), **phase)
    options = dict(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    with pytest.raises(ValueError, match=r"learned from pixels normalised by mean=.*; give the same normalization"):
        make_trainer(tmp_path, **options).fit(second, DigitsDataModule())
    # of fewer images the statistics are a little different
    make_trainer(tmp_path, **options).fit(second, DigitsDataModule(normalization="standardize", limit_train=600))


def test_the_second_phase_learns_in_validation_as_in_training_from_the_frozen_last_exit(first_phase, tmp_path):
    """The loss that is logged is the one of the formula, over all validation images."""
    model = IMTA(trained=first_phase, optimizer=STEP, **TINY)
    data = TinyData(batch_size=20)
    trainer = make_trainer(tmp_path)
    (logged,) = trainer.validate(model, data, verbose=False)
    images, target = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    images = data.normalize(images)
    network = model.eval().network.model
    with torch.no_grad():
        first, *_ = network(images)
        teacher = list(network.trained(images))[-1]
    entropy = functional.cross_entropy(first, target)
    given, expected = (first / 3).log_softmax(1), (teacher / 3).log_softmax(1)
    divergence = (expected.exp() * (expected - given)).sum(1).mean()
    assert logged["val/loss/exit0"] == pytest.approx((0.1 * entropy + 0.9 * 9 * divergence).item(), rel=1e-5)


def test_the_second_phase_costs_little_more_than_the_first():
    first, second = (kind(3, (32, 32), 10).exit_costs for kind in (MSDNet, IMTA))
    # an embedding of the logits before, and as many more inputs of the classifier, at each exit but the first
    extra = [0, *(number * (10 * 128 + 128 * 10) for number in range(1, 5))]
    assert [after - before for before, after in zip(first, second, strict=True)] == extra
    assert all(round(100 * more / cost, 2) <= 0.02 for more, cost in zip(extra, second, strict=True))


def test_a_budget_without_validation_images_is_refused(tmp_path):
    data = TinyData(batch_size=20)
    data.setup()
    with pytest.raises(ValueError, match=r"budget=40000\.0 needs images held out .* this fit has no validation"):
        make_trainer(tmp_path).fit(MSDNet(**TINY, budget=4e4), data.train_dataloader())
    with pytest.raises(ValueError, match="this fit has no validation"):
        fit(tmp_path, MSDNet(**TINY, budget=4e4), TinyData(batch_size=20, validation_fraction=0))
    with pytest.raises(ValueError, match=r"budget=40000\.0 is of one view of an image, but test_flips"):
        MSDNet(**TINY, budget=4e4, test_flips=True)
