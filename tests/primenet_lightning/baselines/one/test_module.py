"""ONE under the engine: its ramp, resumed, in two processes, predicting, exported."""

import pytest
import torch
from lightning.pytorch import Callback
from short_fits import Crash, fit, resumed_differences, trained, without_norms
from tiny import SGDStep, TinyData, distance, make_trainer, same, state
from torch.optim import SGD

from primenet_lightning.analysis.features import feature_extractor
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import OneNet, TargetResNet, export
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.nn.systems.distillation import rise

SMALL = dict(in_channels=2, image_size=(8, 8), num_classes=3, depth=8, optimizer=SGDStep(0.02))


class Plain(OneNet):
    """No batch norm: its training does not depend on how a batch is shared out."""

    def configure_backbone(self):
        return without_norms(super().configure_backbone())


def build(kind=OneNet, **options):
    torch.manual_seed(4)
    return kind(**(SMALL | options))


class Weights(Callback):
    def __init__(self):
        self.by_epoch = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.by_epoch.setdefault(trainer.current_epoch, set()).add(pl_module.network.model.distilled)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [rise(0, 1.6), rise(1, 1.6), 1, 1, 1, 1]),  # 80 of 300 epochs are 1.6 of 6
        (dict(ramp_epochs=4), [rise(0, 4), rise(1, 4), rise(2, 4), rise(3, 4), 1, 1]),
        (dict(ramp_epochs=0), [1] * 6),
        (dict(distills=False), [0] * 6),
    ],
)
def test_the_distillation_comes_in_by_epochs(options, weights, tmp_path):
    seen = Weights()
    trainer = make_trainer(tmp_path, [seen], max_epochs=6, limit_train_batches=1)
    trainer.fit(build(**options), TinyData(batch_size=20))
    for epoch, weight in enumerate(weights):
        assert [*seen.by_epoch[epoch]] == [pytest.approx(weight)]


def test_it_learns_as_a_plain_loop_does(tmp_path):
    model, other = build(ramp_epochs=2), build(ramp_epochs=2)
    recorded = []

    class Record(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            recorded.append([tensor.clone() for tensor in batch])

    make_trainer(tmp_path, [Record()], max_epochs=2).fit(model, TinyData(batch_size=20))
    ensemble = other.network.model.train()
    optimizer = SGD(ensemble.parameters(), lr=0.02)
    for number, (images, target) in enumerate(recorded):
        ensemble.distilled = rise(number // 4, 2)
        optimizer.zero_grad()
        ensemble.loss(ensemble(images), target).backward()
        optimizer.step()
    assert same(state(model), state(other))


def test_a_fit_resumed_within_an_epoch_ends_bit_for_bit_alike(tmp_path):
    by_step = resumed_differences(lambda: build(ramp_epochs=4, schedule="cosine"), tmp_path, [2, 6])
    assert not any(by_step.values()), by_step


def test_a_fit_of_another_length_does_not_lay_the_ramp_out_anew(tmp_path):
    begun = fit(build(), tmp_path, (Crash(3),))
    with pytest.raises(ValueError, match=r"resume with the same max_epochs, or give ramp_epochs=0\.533333"):
        fit(build(), tmp_path, ckpt_path=begun["file"], max_epochs=3)
    fit(build(ramp_epochs=0.5), tmp_path, ckpt_path=begun["file"], max_epochs=3)
    late = fit(build(), tmp_path / "late", (Crash(6),))  # in epoch 1, when both ramps are over
    fit(build(), tmp_path / "late", ckpt_path=late["file"], max_epochs=3)
    plain = fit(build(distills=False), tmp_path / "plain", (Crash(3),))
    fit(build(distills=False), tmp_path / "plain", ckpt_path=plain["file"], max_epochs=3)


def train_plain(folder, devices):
    return trained(lambda: build(Plain, ramp_epochs=2), folder, devices)


def train_whole(folder, devices):
    return trained(build, folder, devices)


def test_two_processes_train_what_one_trains(ranks, tmp_path):
    one = train_plain(tmp_path, 1)
    first, second = ranks(train_plain, tmp_path, 2)
    assert same(first["state"], second["state"])
    assert distance(one["state"], first["state"]) < 1e-9
    assert one["losses"] == pytest.approx(first["losses"], abs=1e-9)


def test_two_processes_with_batch_norms_agree(ranks, tmp_path):
    first, second = ranks(train_whole, tmp_path, 2)
    assert same(first["state"], second["state"])


def test_checkpoint_and_exported_checkpoint_predict_alone(tmp_path):
    model = build()
    saved = fit(model, tmp_path)
    loaded = load_model(saved["file"])
    assert same(state(loaded), state(model))
    exported = load_model(export(saved["file"], tmp_path / "resnet8.ckpt"))
    assert type(exported) is TargetResNet
    images = torch.randint(0, 255, (9, 2, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(exported(images), loaded(images))
        answers = loaded.network.model(loaded.images_of(images))
        assert torch.equal(answers.branches[0], loaded(images))
        # what a probe sees of the network is what the target has
        features = (feature_extractor(one)(loaded.images_of(images)) for one in (loaded, exported))
        assert torch.equal(*features)
    (one,) = make_trainer(tmp_path).test(loaded, TinyData(), verbose=False)
    (other,) = make_trainer(tmp_path).test(exported, TinyData(), verbose=False)
    assert one == other


@torch.no_grad()
def test_an_ensemble_predicts_and_is_not_exported(tmp_path):
    model = build(predicts="ensemble").eval()
    images = torch.randn(4, 2, 8, 8)
    assert torch.equal(model(images), model.network.model(images).ensemble)
    saved = fit(build(predicts="ensemble"), tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match="predicts='ensemble' needs all branches"):
        export(saved["file"], tmp_path / "it.ckpt")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(ramp_epochs=-1), "ramp_epochs=-1 must be at least 0"),
        (dict(ramp_epochs=5, distills=False), "ramp_epochs=5 has nothing to do with distills=False"),
        (dict(temperature=2.0, distills=False), "temperature=2.0 has nothing to do with distills=False; leave it out"),
        (dict(depth=31), "depth=31 must be 6 n"),
        (dict(branches=1), "branches=1 makes no ensemble"),
    ],
)
def test_options_that_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**options)


def test_fits_that_are_refused(tmp_path):
    endless = make_trainer(tmp_path, max_epochs=-1, max_steps=3)
    with pytest.raises(ValueError, match="ramp_epochs=None goes by the number of epochs, which nobody knows"):
        endless.fit(build(), TinyData())
    endless.fit(build(ramp_epochs=2), TinyData())
    make_trainer(tmp_path, fast_dev_run=True).fit(build(), TinyData(batch_size=20))
    cut_short = make_trainer(tmp_path, max_epochs=5, max_steps=3)
    with pytest.raises(
        ValueError, match="goes by max_epochs=5, but max_steps=3 may end the fit before; give ramp_epochs"
    ):
        cut_short.fit(build(), TinyData())
    with pytest.raises(ValueError, match="a batch has one image, from which the gate of ONE cannot learn"):
        make_trainer(tmp_path).fit(build(), TinyData(batch_size=1))


def momentum(parameters):
    return SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)


def test_it_learns_the_digits(tmp_path):
    data = DigitsDataModule(batch_size=64)
    model = OneNet(1, (8, 8), 10, depth=8, optimizer=momentum, schedule="cosine")
    make_trainer(tmp_path, max_epochs=3).fit(model, data)
    (result,) = make_trainer(tmp_path).test(model, data, verbose=False)
    assert result["test/error"] < 5
