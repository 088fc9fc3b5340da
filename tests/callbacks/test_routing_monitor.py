import csv

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from tiny import Steps, TinyData, make_model, make_trainer

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.routing import shares_of_capsules
from primenet_lightning.callbacks.routing import RoutingMonitor
from primenet_lightning.figures.style import COLOURS
from primenet_lightning.nn.prime.mixing import Concatenate
from primenet_lightning.nn.prime.router import LeastLoss


class Quiet(RoutingMonitor):
    """Keeps the history and draws nothing."""

    def _draw(self, trainer):
        pass


class Scripted(PrimeNet):
    """Trains, but tells routes and losses by a script, a function of the batch's number."""

    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        number = self.trainer.fit_loop.total_batch_idx
        names = self.network.capsule_names[0]
        return output | {"route": self.routes(number), "losses": dict(zip(names, self.losses(number), strict=True))}

    def routes(self, number):
        return [number % 3]

    def losses(self, number):
        return [1 / (1 + number), 0.5 / (1 + number), 0.7 / (1 + number)]


def scripted(routes=None, losses=None, **options):
    model = make_model(Scripted, **options)
    if routes:
        model.routes = routes
    if losses:
        model.losses = losses
    return model


def fit(folder, model, callbacks=(), epochs=2, ckpt_path=None, **options):
    """Epochs of four batches."""
    torch.manual_seed(7)
    trainer = make_trainer(folder, callbacks, max_epochs=epochs, limit_val_batches=0, **options)
    trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def sentences(caught):
    starts = ("In every batch", "Label-free", "Mean losses")
    return [str(warning.message) for warning in caught if str(warning.message).startswith(starts)]


def by_hand(outputs, names, before):
    """Numbers of an epoch, from the steps' outputs, with tensors."""
    routes = torch.tensor([output["route"] for output in outputs])
    follows = torch.tensor([before["route"] if before else outputs[0]["route"], *routes[:-1].tolist()])
    numbers = {}
    for index, capsules in enumerate(names):
        losses = torch.tensor([[output["losses"][name] for name in capsules] for output in outputs]).double()
        least = losses.topk(2, largest=False).values
        counts = torch.bincount(routes[:, index], minlength=len(capsules))
        numbers |= {f"share/{name}": count / len(outputs) for name, count in zip(capsules, counts, strict=True)}
        numbers[f"switches/block{index}"] = (routes != follows)[:, index].double().mean()
        numbers[f"margin/block{index}"] = (least[:, 1] - least[:, 0]).mean()
        numbers |= {f"loss/{name}": loss for name, loss in zip(capsules, losses.mean(0), strict=True)}
    return {name: float(value) for name, value in numbers.items()}


def test_numbers_are_those_of_the_steps_and_are_logged(tmp_path):
    steps, monitor, model = Steps(), Quiet(), make_model(depth=2)
    fit(tmp_path, model, [steps, monitor], epochs=3, logger=CSVLogger(tmp_path, "", ""))
    assert [number for number, _ in monitor.history] == [0, 1, 2]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row.get("routing/share/block0.k3")]
    assert [(int(row["step"]), int(row["epoch"])) for row in logged] == [(3, 0), (7, 1), (11, 2)]
    for number, means in monitor.history:
        before = steps.outputs[4 * number - 1] if number else None
        expected = by_hand(steps.outputs[4 * number :][:4], model.network.capsule_names, before)
        assert means == pytest.approx(expected, rel=1e-6)
        shown = {name: value for name, value in means.items() if not name.startswith("loss/")}
        row = {key.removeprefix("routing/"): float(v) for key, v in logged[number].items() if key.startswith("routing")}
        assert row == pytest.approx(shown)


def test_switches_across_epochs_count(tmp_path):
    monitor = Quiet()
    fit(tmp_path, scripted(routes=lambda number: [0 if number < 4 else 2]), [monitor])
    assert [means["switches/block0"] for _, means in monitor.history] == [0, 0.25]


def test_one_capsule_has_no_margin_and_gives_no_warning(tmp_path, recwarn):
    monitor = Quiet()
    fit(tmp_path, make_model(kernel_sizes=(3,)), [monitor])
    assert sorted(monitor.history[-1][1]) == ["loss/block0.k3", "share/block0.k3", "switches/block0"]
    assert monitor.history[-1][1]["share/block0.k3"] == 1
    assert sentences(recwarn) == []


class SaveAt(Callback):
    """Saves after so many batches, or at the end of the epoch after them, and stops there."""

    def __init__(self, path, batches, hook="batch"):
        self.path, self.batches, self.hook = path, batches, hook

    def save(self, trainer, hook):
        if trainer.fit_loop.total_batch_idx + 1 == self.batches and hook == self.hook:
            trainer.save_checkpoint(self.path, weights_only=False)
            raise KeyboardInterrupt

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.save(trainer, "batch")

    def on_train_epoch_end(self, trainer, pl_module):
        self.save(trainer, "epoch")


@pytest.mark.parametrize(("batches", "hook"), [(6, "batch"), (8, "batch"), (8, "epoch"), (12, "batch")])
def test_resumed_history_is_that_of_one_run(batches, hook, tmp_path):
    """From the middle of an epoch, and from its last batch, after which Lightning does not end it again."""
    whole, resumed = Quiet(), Quiet()
    fit(tmp_path, make_model(), [whole], epochs=3)
    path = tmp_path / "middle.ckpt"
    with pytest.raises(SystemExit):
        fit(tmp_path, make_model(), [Quiet(), SaveAt(path, batches, hook)], epochs=3)
    fit(tmp_path, make_model(), [resumed], epochs=3, ckpt_path=path)
    assert resumed.history == whole.history
    assert [number for number, _ in resumed.history] == [0, 1, 2]


def test_a_new_run_begins_a_new_history(tmp_path):
    monitor = Quiet()
    for _ in range(2):
        fit(tmp_path, scripted(), [monitor], epochs=1)
    assert len(monitor.history) == 1
    assert monitor._epoch.batches == 4


def test_one_capsule_all_the_time_is_named_once_also_over_a_resume(tmp_path, recwarn):
    class Saved(Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=False)

    fit(tmp_path, scripted(routes=lambda number: [2]), [Quiet(), Saved()], epochs=2)
    model = scripted(routes=lambda number: [2])
    fit(tmp_path, model, [Quiet()], epochs=4, ckpt_path=tmp_path / "end.ckpt")
    said = [text for text in sentences(recwarn) if text.startswith("In every batch")]
    assert len(said) == 1
    assert "of the training the same capsule was routed: block0.k7." in said[0]


def test_an_inference_choice_that_training_did_not_make_is_told_once(tmp_path, recwarn):
    model = scripted(routes=lambda number: [0 if number % 4 == 0 else 1], inference_routing=2)
    fit(tmp_path, model, [Quiet()], epochs=3)
    (said,) = sentences(recwarn)
    assert said.startswith("Label-free inference")
    assert "block0.k7 instead of block0.k5 (75% of batches)" in said


@pytest.mark.parametrize("mode", [1, "min_entropy", "best_validation"])
def test_an_inference_choice_as_in_training_or_none_is_no_reason_to_warn(mode, tmp_path, recwarn):
    model = scripted(routes=lambda number: [0 if number % 4 == 0 else 1], inference_routing=mode)
    fit(tmp_path, model, [Quiet()], epochs=2)
    assert sentences(recwarn) == []


def test_capsules_that_stop_learning_are_named_once(tmp_path, recwarn):
    def losses(number):
        epoch = number // 4
        return [1 / (1 + epoch), 0.5, 0.9 if epoch < 2 else 0.8 - 1e-5 * epoch]

    fit(tmp_path, scripted(losses=losses, inference_routing="min_entropy"), [Quiet(patience=3)], epochs=7)
    said = sentences(recwarn)
    assert ["block0.k3" in text for text in said] == [False, False]
    assert "for 3 epochs up to epoch 3: block0.k5 (best 0.5 nats)." in said[0]
    assert "for 3 epochs up to epoch 5: block0.k7 (best 0.8 nats)." in said[1]


def colours_of(path):
    with Image.open(path) as picture:
        return {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in picture.convert("RGB").getcolors(10**6)}


def test_picture_and_table(tmp_path):
    monitor = RoutingMonitor()
    fit(tmp_path, scripted(), [monitor], epochs=2)
    assert {*COLOURS[:3]} <= colours_of(tmp_path / "figures/routing.png")
    assert not {*COLOURS[3:]} & colours_of(tmp_path / "figures/routing.png")
    with (tmp_path / "figures/routing.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row.pop("epoch")), {key: float(v) for key, v in row.items()}) for row in rows] == monitor.history


def test_interrupted_run_is_drawn_and_a_fast_dev_run_is_not(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, make_model(), [RoutingMonitor(tmp_path / "mine"), SaveAt(tmp_path / "some.ckpt", 6)])
    assert sorted(path.name for path in (tmp_path / "mine/figures").iterdir()) == ["routing.csv", "routing.png"]
    fit(tmp_path / "none", make_model(), [RoutingMonitor()], fast_dev_run=3)
    assert not (tmp_path / "none").exists()


def test_other_modules_are_left_alone(tmp_path):
    monitor = RoutingMonitor()
    make_trainer(tmp_path, [monitor], limit_train_batches=2, limit_val_batches=1).fit(BoringModel())
    assert monitor.history == []
    assert list(tmp_path.iterdir()) == []


def fit_and_tell(folder):
    monitor = RoutingMonitor(folder)
    fit(folder, make_model(depth=2), [monitor], devices=2, strategy="ddp")
    return monitor.history


def test_two_ranks_count_the_same_and_one_draws(ranks, tmp_path):
    first, second = ranks(fit_and_tell, tmp_path)
    assert first == second
    assert len(first) == 2
    assert (tmp_path / "figures/routing.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(patience=0), "patience=0 must be at least 1"),
        (dict(min_improvement=1.5), "min_improvement=1.5 is no part"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RoutingMonitor(**options)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (dict(router="concatenate"), {"least_loss", "changes"}),
        (dict(router="mean"), {"least_loss", "changes"}),
        (dict(router="gate"), {"least_loss", "changes"}),
        (dict(router="gate", router_options={"per": "batch"}), {"share", "switches"}),
        (dict(router="settle"), {"share", "switches"}),
    ],
)
def test_routed_is_said_only_where_a_batch_was_routed(options, kinds, tmp_path):
    monitor = Quiet()
    fit(tmp_path, make_model(**options), [monitor], epochs=1)
    (_, means), *_ = monitor.history
    assert {name.partition("/")[0] for name in means} == kinds | {"margin", "loss"}
    (kind,) = kinds - {"changes", "switches"}
    names = [f"{kind}/block0.k{size}" for size in (3, 5, 7)]
    assert sum(means[name] for name in names) == pytest.approx(1)


def test_shares_of_a_network_carry_the_capsules_names(tmp_path):
    class Both(PrimeNet):
        def configure_router(self, index):
            return Concatenate() if index == 0 else LeastLoss()

    steps, model = Steps(), make_model(Both, depth=2)
    fit(tmp_path, model, [steps], epochs=1)
    shares = shares_of_capsules(model.network)
    for index, kind in enumerate(("least_loss", "routing")):
        routes = [output["route"][index] for output in steps.outputs]
        by_hand = {f"block{index}.k{size}": routes.count(place) / 4 for place, size in enumerate((3, 5, 7))}
        assert shares[kind] == by_hand
