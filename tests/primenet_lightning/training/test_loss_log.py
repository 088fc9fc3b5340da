import copy
import csv

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import CapsuleLossCurves
from primenet_lightning.figures.losses import draw_losses
from primenet_lightning.training.loss_log import LossLog


class Record(Callback):
    """Keeps what each training step returned."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(dict(outputs["losses"]))


class Probe(PrimeNet):
    """Logs the index of each batch through Lightning, whose step axis is the one to agree with."""

    def training_step(self, batch, batch_idx):
        self.log("probe", float(self.trainer.fit_loop.total_batch_idx), on_step=True, on_epoch=False)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def train(silent, make_batches, loader):
    """Fit a small network on eight batches; keyword arguments go to the Trainer."""

    def fit(model=None, ckpt_path=None, validate=True, **options):
        torch.manual_seed(0)
        trainer = Trainer(**(silent | options))
        model = model or PrimeNet(num_classes=3)
        batches = loader(make_batches())
        trainer.fit(model, batches, loader(make_batches(2, seed=1)) if validate else None, ckpt_path=ckpt_path)
        return trainer

    return fit


def mean(steps, name):
    return sum(step[name] for step in steps) / len(steps)


def logged(folder, column):
    with (folder / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row[column]]


def test_points_are_means_at_each_interval_and_at_the_end_of_each_epoch(train):
    record, curves = Record(), LossLog()
    train(callbacks=[record, curves], max_epochs=2, log_every_n_steps=3)
    assert [batches for batches, _ in curves.train] == [3, 6, 8, 11, 14, 16]
    start = 0
    for batches, losses in curves.train:
        assert list(losses) == ["block0.k3", "block0.k5", "block0.k7", "head", "total"]
        for name, value in losses.items():
            assert value == pytest.approx(mean(record.losses[start:batches], name), rel=1e-12)
        start = batches


def test_epochs_are_means_of_all_their_batches(train, tmp_path):
    record, curves = Record(), LossLog()
    train(callbacks=[record, curves], max_epochs=2, log_every_n_steps=3, logger=CSVLogger(tmp_path, "", ""))
    assert [batches for batches, _ in curves.epochs] == [8, 16]
    for (_, losses), steps in zip(curves.epochs, (record.losses[:8], record.losses[8:]), strict=True):
        for name, value in losses.items():
            assert value == pytest.approx(mean(steps, name), rel=1e-12)
    assert logged(tmp_path, "train/epoch_loss/head") == [(b - 1, losses["head"]) for b, losses in curves.epochs]


def test_accuracies_are_those_of_the_answers(train, make_batches):
    """Counted apart, from what each classifier answers in training mode and in the validation."""
    right, seen = {}, []

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            images, target = batch
            block = copy.deepcopy(pl_module.network).train().blocks[0]
            for name, capsule in block.capsules.items():
                answers = capsule(images)[1].argmax(1)
                right[f"block0.{name}"] = right.get(f"block0.{name}", 0) + (answers == target).sum().item()
            seen.extend(target)

    curves = LossLog()
    trainer = train(callbacks=[Count(), curves])
    ((batches, accuracy),) = curves.train_accuracy
    assert batches == 8
    assert list(accuracy) == ["block0.k3", "block0.k5", "block0.k7", "head"]
    for name, count in right.items():
        assert accuracy[name] == pytest.approx(count / len(seen))
    ((_, validated),) = curves.validation_accuracy
    images, target = (torch.cat(part) for part in zip(*make_batches(2, seed=1), strict=True))
    with torch.no_grad():
        answers = trainer.lightning_module.eval()(images).argmax(1)
    assert validated["head"] == pytest.approx((answers == target).float().mean().item())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_axis_is_lightnings_own(train, tmp_path, accumulate):
    model = Probe(num_classes=3, accumulate_grad_batches=accumulate)
    curves = LossLog()
    train(model, callbacks=[curves], logger=CSVLogger(tmp_path, "", ""), max_epochs=2, log_every_n_steps=4)
    probed = logged(tmp_path, "probe")
    assert [step for step, _ in probed] == [3, 7, 11, 15]
    assert all(step == batch for step, batch in probed)
    assert logged(tmp_path, "train/loss/head") == [(batches - 1, losses["head"]) for batches, losses in curves.train]
    assert [batches - 1 for batches, _ in curves.train] == [3, 7, 11, 15]
    validated = logged(tmp_path, "val/loss/head")
    assert [(step + 1, value) for step, value in validated] == [
        (batches, pytest.approx(losses["head"])) for batches, losses in curves.validation
    ]
    assert [step for step, _ in validated] == [7, 15]


def test_zero_interval_leaves_the_ends_of_epochs(train):
    curves = LossLog()
    train(callbacks=[curves], log_every_n_steps=0)
    assert [batches for batches, _ in curves.train] == [8]


def test_a_validation_is_remembered_once(train):
    curves = LossLog()
    train(callbacks=[curves], max_epochs=4, check_val_every_n_epoch=2, num_sanity_val_steps=1)
    assert [batches for batches, _ in curves.validation] == [16, 32]
    often = LossLog()
    trainer = train(callbacks=[often], val_check_interval=0.5)
    assert [batches for batches, _ in often.validation] == [4, 8]
    trainer.validate(trainer.lightning_module, trainer.val_dataloaders, verbose=False)
    assert len(often.validation) == 2


def test_looking_at_an_old_checkpoint_leaves_the_curves_alone(train, make_batches, loader, tmp_path):
    train(callbacks=[], max_epochs=1).save_checkpoint(tmp_path / "first.ckpt")
    curves = LossLog()
    trainer = train(callbacks=[curves], max_epochs=3)
    seen = list(curves.train)
    trainer.validate(dataloaders=loader(make_batches(2)), ckpt_path=tmp_path / "first.ckpt", verbose=False)
    assert curves.train == seen
    train(callbacks=[curves], max_epochs=1, ckpt_path=tmp_path / "first.ckpt")
    assert [batches for batches, _ in curves.train] == [8]


def test_resumed_curves_are_those_of_one_run(train, tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.fit_loop.total_batch_idx == 12:  # in an epoch, and between two points
                trainer.save_checkpoint(tmp_path / "middle.ckpt", weights_only=False)

    whole = LossLog()
    train(callbacks=[whole, Save()], max_epochs=2, log_every_n_steps=3)
    state = torch.load(tmp_path / "middle.ckpt", weights_only=True)["callbacks"]["CapsuleLossCurves"]
    resumed, record = LossLog(), Record()
    resumed.load_state_dict(state)
    assert resumed.train == whole.train[:4]
    assert resumed.validation == whole.validation[:1]
    # the window that was open goes on: two batches in it so far, and the third arrives
    sums = {name: total / 2 for name, total in resumed._since_point.sums.items()}
    assert resumed._since_point.count == 2
    train(callbacks=[record], max_epochs=2)
    assert sums["head"] == pytest.approx(mean(record.losses[11:13], "head"), rel=1e-12)


class Silent(CapsuleLossCurves):
    def _draw(self, trainer):
        pass


@pytest.mark.parametrize("own", [None, LossLog, CapsuleLossCurves, Silent])
def test_attached_once_and_without_pictures_of_its_own(train, own, tmp_path):
    trainer = train(callbacks=[own()] if own else [], limit_train_batches=1)
    (attached,) = [callback for callback in trainer.callbacks if isinstance(callback, LossLog)]
    assert type(attached) is (own or LossLog)
    assert len(attached.train) == 1
    assert (tmp_path / "figures").exists() == (own is CapsuleLossCurves)


@pytest.mark.parametrize(("first", "second"), [(LossLog, CapsuleLossCurves), (CapsuleLossCurves, LossLog)])
def test_a_run_goes_on_with_its_curves_with_pictures_or_without(train, first, second, tmp_path):
    train(callbacks=[first(tmp_path) if first is CapsuleLossCurves else first()]).save_checkpoint(tmp_path / "one.ckpt")
    curves = second()
    train(callbacks=[curves], max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert [batches for batches, _ in curves.train] == [8, 16]


def test_a_pruned_capsule_has_its_curve_until_then(train):
    """Eight batches; the block commits after three, and the fourth finds one capsule."""
    torch.manual_seed(0)
    options = dict(router="commit", router_options={"warm_up": 3}, local_loss="predsim")
    record, curves = Record(), LossLog()
    train(PrimeNet(num_classes=3, **options), callbacks=[record, curves], log_every_n_steps=2)
    assert [batches for batches, _ in curves.train] == [2, 3, 5, 7, 8]  # the window of batches 3 and 4 is cut in two
    names = [set(values) for _, values in curves.train]
    assert len(names[0]) == 5
    assert len(names[-1]) == 3
    for batches, values in curves.train:
        before = max([0, *(b for b, _ in curves.train if b < batches)])
        assert values == pytest.approx({name: mean(record.losses[before:batches], name) for name in values})
    assert set(curves.validation[-1][1]) == names[-1]
    figure = draw_losses(curves.train, [], "loss")
    drawn = {line.get_label(): len(line.get_xdata()) for line in figure.axes[0].get_lines()}
    assert drawn.keys() == names[0]
    assert len(set(drawn.values())) == 2
