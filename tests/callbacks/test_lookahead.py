"""Lookahead against a loop in plain torch, and wherever a run may be cut, shared or changed."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny import Plain, TinyData, differences, distance, make_model, make_trainer, same, state
from torch import nn
from torch.optim import SGD

from primenet_lightning import EndToEnd, PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.callbacks import AveragedWeights, LastCheckpoint, Lookahead


def layers():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))


class Small(EndToEnd):
    def configure_backbone(self):
        torch.manual_seed(1)
        return layers()


class Stop(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ZeroDivisionError


class Saver(Callback):
    """Saves before the slow weights have followed."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(trainer.default_root_dir + f"/{trainer.global_step}.ckpt", weights_only=False)


def fit(folder, callbacks=(), ckpt_path=None, every=3, **options):
    """Three epochs of four batches; the Trainer, and where the last checkpoint is."""
    trainer_options = {
        key: options.pop(key) for key in ("precision", "devices", "strategy", "max_steps") if key in options
    }
    last = LastCheckpoint(folder, 1)
    callbacks = [*callbacks, Lookahead(every, decay=0.9), last]
    trainer = make_trainer(folder, callbacks, enable_checkpointing=True, max_epochs=3, **trainer_options)
    model = make_model(PrimeNet, **options)
    torch.manual_seed(7)
    try:
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    except ZeroDivisionError:
        torch.manual_seed(99)
    return trainer, last.path


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("every", [3, 5, 12, 20])
def test_it_trains_as_the_trials_loop_does(every, tmp_path):
    """Twelve steps: of three, and of five, whose last is not the end; once at the very end; and never but there."""
    model = Small(2, (8, 8), 3, optimizer=partial(SGD, lr=0.1, momentum=0.8))
    net = layers()
    net.load_state_dict(model.network.model.state_dict())
    data = TinyData(batch_size=20)
    make_trainer(tmp_path, [Lookahead(every, decay=0.9)], max_epochs=3).fit(model, data)

    ema = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer, step = SGD(net.parameters(), lr=0.1, momentum=0.8), 0
    for epoch in range(3):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for images, target in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(data.normalize(images)), target).backward()
            optimizer.step()
            step += 1
            if step % every == 0:
                keep = 0.9**every * (step / 12) ** 3
                for name, value in net.state_dict().items():
                    if value.is_floating_point():
                        ema[name].lerp_(value, 1 - keep)
                        value.copy_(ema[name])
    assert step == 12
    for name, value in model.network.model.state_dict().items():
        expected = ema[name] if value.is_floating_point() else torch.tensor(12)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_the_last_checkpoint_the_network_and_what_predicts_have_the_slow_weights(tmp_path):
    trainer, last = fit(tmp_path, every=5)
    saved = load(last)
    slow = saved["lookahead"]["slow"]
    for weights in (state(trainer.lightning_module), state(load_model(last))):
        assert all(torch.equal(weights[name], value) for name, value in slow.items())
    assert all(torch.equal(saved["state_dict"][f"network.{name}"], value) for name, value in slow.items())
    assert (
        trainer.callback_metrics["val/error"]
        == trainer.validate(trainer.lightning_module, TinyData(batch_size=20), verbose=False)[0]["val/error"]
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(accumulate_grad_batches=2),
        dict(step="stage", exchange="stage"),
        dict(router="commit", router_options={"warm_up": 4}, schedule="triangular"),
        dict(precision="bf16-true"),
    ],
    ids=str,
)
def test_resuming_is_bit_exact(options, tmp_path):
    _, last = fit(tmp_path, [Saver()], **options)
    whole = load(last)
    fit(tmp_path / "stopped", [Stop(5)], **options)
    for begin in (tmp_path / "1.ckpt", tmp_path / "6.ckpt", tmp_path / "stopped/last.ckpt"):
        _, last = fit(tmp_path / "resumed", ckpt_path=begin, **options)
        resumed = load(last)
        for part in ("lookahead", "state_dict", "optimizer_states"):
            assert not differences(whole[part], resumed[part]), (begin, part)


def fit_and_load(folder, devices, **options):
    trainer, last = fit(folder, devices=devices, strategy="ddp" if devices > 1 else "auto", **options)
    return state(trainer.lightning_module), load(last)["lookahead"]["slow"]


def test_two_ranks_are_equal_and_go_as_one(ranks, tmp_path):
    """Without batch norm, whose statistics are of a share; with it the ranks are equal all the same."""
    first, second = ranks(fit_plain, tmp_path, 2)
    assert same(first[0], second[0])
    assert same(first[1], second[1])
    assert distance(first[0], fit_plain(tmp_path, 1)[0]) < 1e-9
    first, second = ranks(fit_and_load, tmp_path, 2)
    assert same(first[0], second[0])


def fit_plain(folder, devices):
    options = dict(devices=devices, strategy="ddp" if devices > 1 else "auto", precision="64-true", max_epochs=3)
    lookahead = Lookahead(5, decay=0.9)
    trainer, model = make_trainer(folder, [lookahead], **options), make_model(Plain)
    trainer.fit(model, TinyData(batch_size=20))
    return state(model), {name: value.clone() for name, value in lookahead.slow.items()}


def test_a_committed_network_forgets_what_was_pruned(tmp_path):
    trainer, last = fit(tmp_path, router="commit", router_options={"warm_up": 4})
    network = trainer.lightning_module.network
    assert len(network.blocks[0].capsules) == 1
    named = dict([*network.named_parameters(), *network.named_buffers()])
    assert load(last)["lookahead"]["slow"].keys() == {
        name for name, value in named.items() if value.is_floating_point()
    }


def test_a_fit_that_goes_on_begins_anew(tmp_path):
    trainer, _ = fit(tmp_path)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(trainer.lightning_module, TinyData(batch_size=20))
    lookahead = next(callback for callback in trainer.callbacks if isinstance(callback, Lookahead))
    assert (lookahead._start, lookahead._total, trainer.global_step) == (12, 8, 20)


def test_what_cannot_work_is_refused(tmp_path):
    for options, sentence in (
        (dict(every=0), "every=0 must be at least 1 step"),
        (dict(decay=1.0), "decay=1.0 is out of range; give 0 or more, and less than 1"),
        (dict(decay=float("nan")), "decay=nan is out of range"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Lookahead(**options)
    with pytest.raises(ValueError, match="Lookahead and AveragedWeights both average the weights"):
        fit(tmp_path, [AveragedWeights()])
    with pytest.raises(ValueError, match="EMAWeightAveraging"):
        fit(tmp_path, [EMAWeightAveraging()])
    endless = make_trainer(tmp_path, [Lookahead()], max_epochs=-1)
    with pytest.raises(ValueError, match="Lookahead needs to know its end, and this fit has none"):
        endless.fit(make_model(), TinyData(batch_size=20))
    _, last = fit(tmp_path, max_steps=6)
    with pytest.raises(ValueError, match="Lookahead of the resumed run was laid out over 6 steps, and this fit has 12"):
        fit(tmp_path, ckpt_path=last)
