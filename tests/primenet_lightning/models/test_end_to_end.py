"""EndToEnd, from which all baselines derive, learns, counts, refuses, resumes and saves as it says."""

import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from tiny import TinyData, make_trainer
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

from primenet_lightning import EndToEnd, NonFiniteError
from primenet_lightning.baselines import CifarResNet20, MultiExit, OneScale
from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.datamodules import DigitsDataModule


def slow(parameters):
    return SGD(parameters, lr=0.1)


class Dense(EndToEnd):
    """Something small; its argument is one that the base class does not know."""

    def __init__(self, in_channels=2, image_size=(8, 8), num_classes=3, bias=True, optimizer=slow, **learning):
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)

    def configure_backbone(self):
        dense = nn.Linear(math.prod(self.in_shape), self.num_classes, bias=self.hparams["bias"])
        return nn.Sequential(nn.Flatten(), dense)


class Watch(Callback):
    """What each training batch was, and what each epoch logged."""

    def __init__(self):
        self.batches, self.logged = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)

    def on_train_end(self, trainer, pl_module):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(folder, model=None, data=None, **options):
    watch = Watch()
    trainer = make_trainer(folder, [watch], **options)
    torch.manual_seed(3)
    model = Dense() if model is None else model
    trainer.fit(model, TinyData(batch_size=20) if data is None else data)
    return trainer, model, watch


@pytest.fixture(scope="module")
def digits():
    return DigitsDataModule(limit_train=300, batch_size=20)


@pytest.mark.parametrize(
    ("kind", "rate", "epochs"),
    [(partial(OneScale, kernel_size=5), 3e-3, 2), (CifarResNet20, 4e-3, 2), (partial(MultiExit, exits=2), 1e-2, 2)],
    ids=["one scale", "resnet-20", "multi-exit"],
)
def test_each_learns_digits(kind, rate, epochs, digits, tmp_path):
    """Chance is an error of 90 % and a loss of ln 10."""
    model = kind(optimizer=partial(Adam, lr=rate))
    trainer, *_ = fit(tmp_path, model, digits, max_epochs=epochs)
    metrics = trainer.callback_metrics
    names = {f"{stage}/{name}" for stage in ("train", "val") for name in ("accuracy", "error", "loss/head")}
    assert metrics.keys() == names
    assert metrics["val/error"] < 40
    assert metrics["val/loss/head"] < 0.7 * math.log(10)
    (result,) = trainer.test(model, digits, verbose=False)
    assert result["test/error"] < 40
    assert result["test/accuracy"] == pytest.approx(1 - result["test/error"] / 100)


def test_training_is_plain_backpropagation(tmp_path):
    """Against a loop in torch, with the metrics counted by hand."""
    trainer, model, watch = fit(tmp_path)
    torch.manual_seed(3)
    plain = nn.Linear(2 * 8 * 8, 3)
    right, loss_sum, count = 0, 0.0, 0
    optimizer = SGD(plain.parameters(), lr=0.1)
    for images, target in watch.batches:
        logits = plain(images.flatten(1))
        loss = functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right += (logits.argmax(1) == target).sum().item()
        loss_sum, count = loss_sum + loss.item() * len(target), count + len(target)
    assert count == 75
    torch.testing.assert_close(model.network.model[1].weight, plain.weight)
    (logged,) = watch.logged
    assert logged["train/accuracy"] == pytest.approx(right / count)
    assert logged["train/error"] == pytest.approx(100 * (1 - right / count), abs=1e-4)
    assert logged["train/loss/head"] == pytest.approx(loss_sum / count)
    data = trainer.datamodule
    images, labels = data.validation_dataset[torch.arange(8)]
    scores = plain(data.normalize(images).flatten(1))
    assert logged["val/loss/head"] == pytest.approx(functional.cross_entropy(scores, labels).item(), rel=1e-5)
    assert logged["val/accuracy"] == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    torch.testing.assert_close(model.predict_step((data.normalize(images), labels), 0), scores.softmax(1))


def two_epochs(folder, devices):
    strategy = "ddp" if devices > 1 else "auto"
    options = dict(devices=devices, strategy=strategy, precision="64-true", limit_train_batches=3, max_epochs=2)
    _, model, watch = fit(folder, **options)
    return model.network.model[1].weight.detach(), watch.logged[0]


def test_two_processes_train_and_count_what_one_does(ranks, tmp_path):
    """In batches of 20, which two can share evenly."""
    weight, logged = two_epochs(tmp_path, 1)
    first, second = ranks(two_epochs, tmp_path, 2)
    assert first[1] == second[1]
    assert first[1] == pytest.approx(logged)
    torch.testing.assert_close(first[0], weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (dict(in_channels=1), r"in_channels=1, but TinyData has 2; build it with Dense\(in_channels=datamodule.in_cha"),
        (dict(image_size=(9, 8)), r"image_size=\[9, 8\], but TinyData has \[8, 8\]"),
        (dict(num_classes=4), "num_classes=4, but TinyData has 3"),
    ],
)
def test_other_data_is_refused(model, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        fit(tmp_path, Dense(**model))


def test_a_loss_that_is_not_finite_stops_the_fit_before_the_update(tmp_path):
    model = Dense(optimizer=partial(SGD, lr=1e38))
    with pytest.raises(NonFiniteError, match=r"the loss of head is (nan|inf) at step \d+, learning rate 1e\+38"):
        fit(tmp_path, model, max_epochs=9)
    assert model.network.model[1].weight.isfinite().all()
    with torch.no_grad():
        model.network.model[1].bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="a parameter of head is not finite"):
        model.on_save_checkpoint({})


def test_pixels_are_refused():
    with pytest.raises(ValueError, match=r"images have dtype torch\.uint8; normalise them"):
        Dense()(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


def test_a_checkpoint_is_enough_to_predict(tmp_path):
    trainer, model, _ = fit(tmp_path, Dense(bias=False))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
    assert saved["class_path"] == f"{Dense.__module__}.Dense"
    own = dict(in_channels=2, image_size=(8, 8), num_classes=3, bias=False, local=False)
    assert {name: saved["hyper_parameters"][name] for name in own} == own
    assert not saved["hyper_parameters"].keys() & {"optimizer", "head_optimizer", "scheduler", "head_scheduler"}
    loaded = Dense.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True)
    assert loaded.data_description == trainer.datamodule.description()
    images = torch.randn(4, 2, 8, 8)
    assert torch.equal(loaded(images), model(images))

    class Others(TinyData):
        class_names = ("x", "y", "z")

    with pytest.raises(ValueError, match="trained on tiny with the classes a, b, c, but tiny has x, y, z"):
        make_trainer(tmp_path).test(loaded, Others(batch_size=20), tmp_path / "it.ckpt", weights_only=True)


class Crash(Callback):
    """Ends a fit right after a batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.batch:
            raise ZeroDivisionError


class Dropping(Dense):
    """Draws random numbers in training, and has statistics."""

    def configure_backbone(self):
        dense = nn.Linear(4 * 64, self.num_classes)
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), dense)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_run_that_crashed_in_an_epoch_goes_on_bit_for_bit(step, tmp_path):
    def run(name, callbacks=(), ckpt_path=None):
        torch.manual_seed(3)
        last = LastCheckpoint(tmp_path / name, 1)
        trainer = make_trainer(tmp_path, [last, *callbacks], enable_checkpointing=True, max_epochs=2)
        model = Dropping(optimizer=partial(Adam, lr=1e-2), schedule="cosine")
        try:
            trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
        except ZeroDivisionError:
            torch.manual_seed(99)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return model.state_dict(), metrics

    whole, metrics = run("whole")
    run("crashed", [Crash(step)])
    resumed, metrics_again = run("crashed", ckpt_path=tmp_path / "crashed/last.ckpt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert metrics == metrics_again


def test_gradients_accumulate_and_are_clipped_as_in_a_plain_loop(tmp_path):
    """Four batches an epoch: the last window has one."""
    torch.manual_seed(3)
    _, model, watch = fit(tmp_path, Dense(accumulate_grad_batches=3, gradient_clip_val=0.05))
    torch.manual_seed(3)
    plain = nn.Linear(2 * 8 * 8, 3)
    optimizer = SGD(plain.parameters(), lr=0.1)
    windows = [watch.batches[:3], watch.batches[3:]]
    for window in windows:
        optimizer.zero_grad()
        for images, target in window:
            (functional.cross_entropy(plain(images.flatten(1)), target) / len(window)).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
        optimizer.step()
    torch.testing.assert_close(model.network.model[1].weight, plain.weight)


def test_a_network_that_is_no_row_of_stages_is_refused():
    class Raw(Dense):
        def configure_network(self):
            return self.configure_backbone()

    with pytest.raises(TypeError, match=r"Raw\.configure_network gives a Sequential, which is no StagedNetwork"):
        Raw()
