"""CondenseNet under the engine: when it condenses, resumed, in two processes, predicting, exported."""

import pytest
import torch
from lightning.pytorch import Callback
from short_fits import Crash, fit, resumed_differences, trained, without_norms
from tiny import SGDStep, TinyData, distance, make_trainer, same, state
from torch.optim import SGD

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import CifarResNet20, CondenseNet, export
from primenet_lightning.callbacks import AveragedWeights, SoftFilterPruning
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.training.checkpoints import BestCheckpoint
from primenet_lightning.training.fitting import BestWeights, NothingChosen, fit_and_test

SMALL = dict(in_channels=2, image_size=(8, 8), num_classes=3, layers=[1, 1], growth=[4, 8], optimizer=SGDStep(0.05))


class Plain(CondenseNet):
    """No batch norm: its training does not depend on how a batch is shared out."""

    def configure_backbone(self):
        return without_norms(super().configure_backbone())


def build(kind=CondenseNet, **options):
    torch.manual_seed(4)
    return kind(**(SMALL | options))


class Stages(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        network = pl_module.condense_network
        assert {layer.stage for layer in network.learned_layers} <= {network.stage}
        self.seen.append(network.stage)


@pytest.mark.parametrize(
    ("options", "trainer", "stages"),
    [
        ({}, {}, [0, 0, 1, 2, 3, 3, 3, 3]),  # at 2/8, 3/8 and 4/8
        (dict(condensation=2), {}, [0, 0, 0, 0, 1, 1, 1, 1]),
        (dict(condensation=1), {}, [0] * 8),
        (dict(learned=False), {}, [0] * 8),
        ({}, dict(max_epochs=-1, max_steps=6), [0, 1, 2, 3, 3, 3]),
        ({}, dict(max_epochs=100, max_steps=6), [0, 1, 2, 3, 3, 3]),
        ({}, dict(max_epochs=1), [0, 1, 3, 3]),  # over a stage at once
        ({}, dict(max_epochs=1, limit_train_batches=1), [0]),
        (dict(accumulate_grad_batches=2), {}, [0, 0, 1, 1, 3, 3, 3, 3]),  # only where no gradient waits
    ],
)
def test_stages_go_by_the_progress_of_the_fit(options, trainer, stages, tmp_path):
    seen = Stages()
    make_trainer(tmp_path, [seen], **({"max_epochs": 2} | trainer)).fit(build(**options), TinyData(batch_size=20))
    assert seen.seen == stages


def test_it_learns_as_a_plain_loop_does(tmp_path):
    model, other = build(lasso=1e-3), build(lasso=1e-3)
    recorded = []

    class Record(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            recorded.append([tensor.clone() for tensor in batch])

    make_trainer(tmp_path, [Record()], max_epochs=2).fit(model, TinyData(batch_size=20))
    network = other.condense_network.train()
    optimizer = SGD(network.parameters(), lr=0.05)
    for number, (images, target) in enumerate(recorded):
        network.condense(number / 8)
        optimizer.zero_grad()
        network.loss(network(images), target).backward()
        optimizer.step()
    assert same(state(model), state(other))
    assert network.is_condensed


def test_a_fit_resumed_within_a_stage_ends_bit_for_bit_alike(tmp_path):
    options = dict(lasso=1e-3, dropout=0.2, schedule="cosine")
    by_step = resumed_differences(lambda: build(**options), tmp_path, [2, 3, 6])
    assert not any(by_step.values()), by_step


def test_a_fit_of_another_length_does_not_lay_the_stages_out_anew(tmp_path):
    begun = fit(build(), tmp_path / "early", (Crash(3),))  # at stage 1
    with pytest.raises(
        ValueError, match="condensation of the run that is resumed were laid out over 8 optimizer steps"
    ):
        fit(build(), tmp_path / "early", ckpt_path=begun["file"], max_epochs=3)
    condensed = fit(build(), tmp_path / "late", (Crash(6),))
    fit(build(), tmp_path / "late", ckpt_path=condensed["file"], max_epochs=3)  # nothing is left to lay out


def test_a_second_fit_condenses_nothing_more(tmp_path):
    model, seen = build(), Stages()
    make_trainer(tmp_path, max_epochs=2).fit(model, TinyData(batch_size=20))
    masks = [layer.alive.clone() for layer in model.condense_network.learned_layers]
    make_trainer(tmp_path, [seen], max_epochs=1).fit(model, TinyData(batch_size=20))
    assert seen.seen == [3] * 4
    for layer, mask in zip(model.condense_network.learned_layers, masks, strict=True):
        assert torch.equal(layer.alive, mask)


def train_plain(folder, devices):
    return trained(lambda: build(Plain, lasso=1e-3), folder, devices)


def train_whole(folder, devices):
    return trained(build, folder, devices)


def test_two_processes_train_what_one_trains(ranks, tmp_path):
    one = train_plain(tmp_path, 1)
    first, second = ranks(train_plain, tmp_path, 2)
    assert same(first["state"], second["state"])
    assert distance(one["state"], first["state"]) < 1e-9
    assert one["losses"] == pytest.approx(first["losses"], abs=1e-9)


def test_two_processes_have_the_same_masks(ranks, tmp_path):
    first, second = ranks(train_whole, tmp_path, 2)
    assert same(first["state"], second["state"])
    assert first["state"]["model.blocks.0.0.bottleneck.convolution.alive"].sum() == 4 * 8 // 4


def test_checkpoint_and_exported_checkpoint_predict_alone(tmp_path):
    model = build(layers=[2, 1])
    saved = fit(model, tmp_path, max_epochs=3)
    loaded = load_model(saved["file"])
    assert same(state(loaded), state(model))
    written = export(saved["file"], tmp_path / "new" / "condensed.ckpt")
    exported = load_model(written)
    assert type(exported) is CondenseNet
    assert not exported.condense_network.learned_layers
    assert exported.data_description == loaded.data_description
    images = torch.randint(0, 255, (9, 2, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(exported(images), loaded(images), rtol=1e-4, atol=1e-6)
    (one,) = make_trainer(tmp_path).test(loaded, TinyData(), verbose=False)
    (other,) = make_trainer(tmp_path).test(exported, TinyData(), verbose=False)
    assert other == pytest.approx(one, rel=1e-5)
    # it goes on learning as any other
    make_trainer(tmp_path).fit(exported, TinyData(batch_size=20))


def test_a_fit_that_ended_too_early_is_not_exported(tmp_path):
    saved = fit(build(), tmp_path, max_epochs=-1, max_steps=20, limit_train_batches=1, callbacks=(Stop(5),))
    with pytest.raises(ValueError, match="at stage 1 of 3 of its condensation, and cannot be converted; train it"):
        export(saved["file"], tmp_path / "condensed.ckpt")
    assert not (tmp_path / "condensed.ckpt").exists()


class Stop(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.parametrize("kind", ["on disk", "in memory"])
def test_only_a_condensed_network_is_the_best(kind, tmp_path):
    def best():
        return BestCheckpoint(tmp_path) if kind == "on disk" else BestWeights()

    # an epoch ends at stage 2 of 3
    chooser = best()
    trainer = make_trainer(tmp_path, [chooser, Stop(4)], max_epochs=2, enable_checkpointing=True)
    with pytest.raises(NothingChosen, match="no best checkpoint was chosen, since the fit ended before the network"):
        fit_and_test(trainer, build(), TinyData(batch_size=20), chooser)
    # the next one at the last stage
    chooser, model = best(), build()
    trainer = make_trainer(tmp_path, [chooser], max_epochs=2, enable_checkpointing=True)
    fit_and_test(trainer, model, TinyData(batch_size=20), chooser)
    assert model.condense_network.is_condensed


@pytest.mark.parametrize("options", [dict(learned=False), dict(condensation=1)])
def test_a_network_of_ordinary_convolutions_is_not_exported_again(options, tmp_path):
    model = build(**options)
    assert model.final_model() is model
    with pytest.raises(ValueError, match="one of ordinary convolutions, and predicts as it was trained; there is noth"):
        model.exported()
    condensed = build()
    condensed.condense_network.condense(1.0)
    converted = condensed.exported()
    assert converted.final_model() is converted


def test_what_has_nothing_to_export_says_so(tmp_path):
    saved = fit(CifarResNet20(2, (8, 8), 3), tmp_path, max_epochs=1, limit_train_batches=1)
    with pytest.raises(ValueError, match="is of a CifarResNet20, which predicts as it was trained; there is nothing"):
        export(saved["file"], tmp_path / "other.ckpt")


def test_an_average_of_weights_has_the_masks_of_the_weights(tmp_path):
    model, plain = build(), build()
    make_trainer(tmp_path, [AveragedWeights(0.5)], max_epochs=2).fit(model, TinyData(batch_size=20))
    make_trainer(tmp_path, max_epochs=2).fit(plain, TinyData(batch_size=20))
    for one, other in zip(model.condense_network.learned_layers, plain.condense_network.learned_layers, strict=True):
        assert torch.equal(one.alive, other.alive)
        assert not torch.equal(one.weight, other.weight)
    model.exported()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(lasso=1e-5, condensation=1), "lasso=1e-05 has nothing to do where no channels are given up"),
        (dict(lasso=1e-5, learned=False), "lasso=1e-05 has nothing to do"),
        (dict(learned=False, condensation=2), "condensation=2 has nothing to do with learned=False, whose groups are"),
        (dict(learned=False, converted=True), "learned=False has groups that are fixed from the start, and nothing"),
        (dict(image_size=(1, 8)), r"image_size=\(1, 8\) is too small: pooling between the blocks needs 2 pixels"),
        (dict(size="85"), "size='85' is unknown"),
        (dict(growth=[4]), r"layers=\[1, 1\] and growth=\[4\] must have one number a block"),
    ],
)
def test_options_that_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**options)


def test_fits_that_are_refused(tmp_path):
    endless = make_trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match="the condensation of CondenseNet needs to know its end"):
        endless.fit(build(), TinyData())
    with pytest.raises(ValueError, match="CondenseNet takes channels out of its convolutions by itself"):
        make_trainer(tmp_path, [SoftFilterPruning(0.3)]).fit(build(), TinyData())


def test_a_dense_network_is_pruned_as_any_other(tmp_path):
    make_trainer(tmp_path, [SoftFilterPruning(0.3)], max_epochs=1).fit(build(condensation=1), TinyData(batch_size=20))


def momentum(parameters):
    return SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


def test_it_learns_the_digits(tmp_path):
    data = DigitsDataModule(batch_size=64)
    model = CondenseNet(1, (8, 8), 10, layers=[1, 1], growth=[8, 16], optimizer=momentum, schedule="cosine")
    make_trainer(tmp_path, max_epochs=5).fit(model, data)
    assert model.condense_network.is_condensed
    (result,) = make_trainer(tmp_path).test(model.exported(), data, verbose=False)
    assert result["test/error"] < 10
