"""The average against one computed by hand, wherever the network is looked at."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import TinyData, differences, distance, make_model, make_trainer, same, state
from torch import nn

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.callbacks import AveragedWeights, LastCheckpoint
from primenet_lightning.training.checkpoints import BestCheckpoint

DECAY = 0.8


class Watch(Callback):
    """Keeps the weights after each step, and those that validations and tests begin with."""

    def __init__(self):
        self.trained, self.validated, self.tested = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append(state(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.validated.append((len(self.trained), state(pl_module)))

    def on_test_start(self, trainer, pl_module):
        self.tested.append(state(pl_module))


class Stop(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ZeroDivisionError


def average(states, decay=DECAY):
    """The definition, in double precision; what is not floating is the last one's."""
    means = dict(states[0])
    for newest in states[1:]:
        for name, value in newest.items():
            blended = value.is_floating_point() and name in means
            means[name] = decay * means[name].double() + (1 - decay) * value.double() if blended else value
    return {name: means[name] for name in states[-1]}


def close(one, other):
    return distance(one, other) < 1e-5


def fit(folder, callbacks=(), ckpt_path=None, **options):
    """Three epochs of four batches; the trainer, what was seen, and the last and the best checkpoint."""
    trainer_options = {key: options.pop(key) for key in ("precision", "val_check_interval") if key in options}
    watch, last, best = Watch(), LastCheckpoint(folder, 1), BestCheckpoint(folder)
    callbacks = [*callbacks, AveragedWeights(DECAY), watch, best, last]
    trainer = make_trainer(folder, callbacks, enable_checkpointing=True, max_epochs=3, **trainer_options)
    model = make_model(PrimeNet, **options)
    torch.manual_seed(7)
    try:
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    except ZeroDivisionError:
        torch.manual_seed(99)
    return trainer, watch, last.path, best.best


def load(path):
    return torch.load(path, weights_only=True)


def network(weights):
    return {name.removeprefix("network."): value for name, value in weights.items() if name.startswith("network.")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(accumulate_grad_batches=2),
        dict(exchange="stage", step="stage", val_check_interval=2),
        dict(precision="64-true"),
    ],
    ids=str,
)
def test_validation_checkpoints_and_test_have_the_average_and_training_has_not(options, tmp_path):
    trainer, watch, last, best = fit(tmp_path, **options)
    window = options.get("accumulate_grad_batches", 1)
    steps = watch.trained[window - 1 :: window]
    assert len(watch.validated) == (6 if "val_check_interval" in options else 3)
    for done, seen in watch.validated:
        assert close(seen, average(steps[: done // window]))
    saved = load(last)
    assert close(network(saved["state_dict"]), average(steps))
    trained = watch.trained[-1]
    assert all(torch.equal(value, trained[name]) for name, value in saved["averaging"]["trained"].items())
    assert close(state(trainer.lightning_module), average(steps))
    batches = load(best)["global_step"]
    trainer.test(trainer.lightning_module, TinyData(batch_size=20), best, weights_only=True, verbose=False)
    assert close(watch.tested[0], average(steps[:batches]))


def test_what_is_no_floating_number_stays_the_networks_own(tmp_path):
    """Every batch's route, batch norm's counters, and the route that the validation selected."""
    _, watch, last, _ = fit(tmp_path, inference_routing="best_validation")
    saved = network(load(last)["state_dict"])
    whole = {name: value for name, value in watch.trained[-1].items() if not value.is_floating_point()}
    assert saved["history._extra_state"].shape == (12, 1)
    assert saved["_extra_state"].shape == (1,)
    assert all(torch.equal(saved[name], value) for name, value in whole.items() if name != "_extra_state")
    assert {12} == {value.item() for name, value in saved.items() if name.endswith("num_batches_tracked")}


def test_averaging_changes_nothing_of_the_training(tmp_path):
    _, watch, _, _ = fit(tmp_path / "with")
    plain = Watch()
    trainer = make_trainer(tmp_path / "without", [plain], max_epochs=3)
    model = make_model(PrimeNet)
    torch.manual_seed(7)
    trainer.fit(model, TinyData(batch_size=20))
    assert all(same(*pair) for pair in zip(watch.trained, plain.trained, strict=True))


class Saver(Callback):
    """Saves before the average has seen the batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(trainer.default_root_dir + f"/{trainer.global_step}.ckpt", weights_only=False)


@pytest.mark.parametrize("options", [{}, dict(precision="bf16-true")], ids=str)
def test_resuming_is_bit_exact(options, tmp_path):
    *_, last, _ = fit(tmp_path, [Saver()], **options)
    whole = load(last)
    fit(tmp_path / "stopped", [Stop(6)], **options)
    for begin in (tmp_path / "1.ckpt", tmp_path / "stopped/last.ckpt"):
        *_, last, _ = fit(tmp_path / "resumed", ckpt_path=begin, **options)
        resumed = load(last)
        for part in ("averaging", "state_dict", "optimizer_states"):
            assert not differences(whole[part], resumed[part])


def test_an_average_of_bfloat16_weights_does_not_stand_still(tmp_path):
    _, watch, last, _ = fit(tmp_path, precision="bf16-true")
    kept = load(last)["averaging"]["average"]
    expected = average(watch.trained)
    assert all(mean.dtype == torch.float32 for mean in kept.values())
    assert close(kept, {name: expected[name] for name in kept})


class Prune(Callback):
    """Takes a bias from the network, gives it another parameter, and resizes a third, at some step."""

    def __init__(self, step, at_validation):
        self.step, self.at_validation = step, at_validation

    def prune(self, trainer, pl_module):
        if trainer.global_step == self.step:
            first, second, _ = pl_module.network.blocks[0].capsules.values()
            linear = next(module for module in first.classifier.modules() if isinstance(module, nn.Linear))
            linear.bias = None
            second.register_parameter("extra", nn.Parameter(torch.full((2,), 3.0)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not self.at_validation:
            self.prune(trainer, pl_module)

    def on_validation_epoch_end(self, trainer, pl_module):
        if self.at_validation:
            self.prune(trainer, pl_module)


@pytest.mark.parametrize(("step", "at_validation"), [(5, False), (4, True), (12, True)])
def test_parameters_may_disappear_and_join(step, at_validation, tmp_path):
    trainer, watch, last, _ = fit(tmp_path, [Prune(step, at_validation)])
    expected = average(watch.trained)
    saved = network(load(last)["state_dict"])
    end = state(trainer.lightning_module)
    assert saved.keys() == end.keys()
    if step < 12:
        assert close(saved, expected)
    assert "blocks.0.capsules.k5.extra" in saved
    assert len(saved) == len(watch.trained[0])
    assert close(end, saved)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1, float("nan")])
def test_impossible_decays_are_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay} is out of range; give 0 or more, and less than 1"):
        AveragedWeights(decay)


def test_prediction_takes_the_average_and_knows_the_routes(tmp_path):
    *_, best = fit(tmp_path)
    saved, model = load(best), load_model(best)
    loaded = state(model)
    kept = saved["averaging"]
    assert kept["average"].keys() == {name for name, _ in model.network.named_parameters()} | {
        name for name, value in model.network.named_buffers() if value.is_floating_point()
    }
    assert all(torch.equal(loaded[name], mean) for name, mean in kept["average"].items())
    assert distance(kept["average"], kept["trained"]) > 1e-5
    assert len(model.network.history.ring) == saved["global_step"]


def test_after_the_fit_the_network_keeps_the_average(tmp_path):
    """Also when somebody validates it by itself, or a test fails."""
    trainer, *_ = fit(tmp_path)
    model = trainer.lightning_module
    before = state(model)
    trainer.validate(model, TinyData(batch_size=20), verbose=False)
    assert same(state(model), before)

    class Fails(Callback):
        def on_test_batch_start(self, *args):
            raise ZeroDivisionError

    trainer.callbacks.append(Fails())
    with pytest.raises(ZeroDivisionError):
        trainer.test(model, TinyData(batch_size=20), verbose=False)
    assert same(state(model), before)


def test_checkpoints_of_weights_only_are_refused(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, save_weights_only=True)
    trainer = make_trainer(tmp_path, [AveragedWeights(), checkpoint], enable_checkpointing=True)
    with pytest.raises(ValueError, match="save_weights_only=True leaves callbacks out"):
        trainer.fit(make_model(), TinyData(batch_size=20))
