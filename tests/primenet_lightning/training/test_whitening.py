"""Whitening at the start of a fit."""

import os

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from primenet_lightning import CutNet
from primenet_lightning.callbacks import WhitenFirstLayer
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.datamodules.augmentation import Augment
from primenet_lightning.nn.whitening import Whitening
from primenet_lightning.training.fitting import quiet_trainer, quietly


def small(**options):
    return CutNet(
        "whitened", in_channels=1, image_size=(8, 8), backbone_options={"widths": [4]}, local=False, **options
    )


def fitted(model, data, callbacks=(), epochs=1, **options):
    with quietly():
        trainer = quiet_trainer(epochs, callbacks, limit_train_batches=2, limit_val_batches=1)
        trainer.fit(model, data, **options)
    return trainer


def training_images(data):
    """The pixels of the training split, put to numbers by hand: -1 to 1."""
    positions = data.train_dataset.indices
    return data.train_dataset.images[positions].float() / 127.5 - 1


def test_the_first_layer_is_whitened_by_all_training_images_and_no_others():
    torch.manual_seed(0)
    data = DigitsDataModule(augmentation=Augment(crop=2, flip=True))
    model = small()
    fitted(model, data)
    expected = Whitening(1)
    expected.whiten(training_images(data))
    torch.testing.assert_close(model.backbone.whiten.weight.abs(), expected.weight.abs(), atol=1e-3, rtol=1e-3)
    assert model.backbone.whiten.is_whitened


def test_few_images_are_spread_over_the_whole_split():
    torch.manual_seed(0)
    data = DigitsDataModule()
    model = small()
    fitted(model, data, [WhitenFirstLayer(images=7)])
    images = training_images(data)
    places = [int(i * len(images) / 7) for i in range(7)]
    expected = Whitening(1)
    expected.whiten(images[places])
    torch.testing.assert_close(model.backbone.whiten.weight.abs(), expected.weight.abs(), atol=1e-3, rtol=1e-3)


def test_a_second_fit_keeps_the_filters():
    torch.manual_seed(0)
    model = small()
    fitted(model, DigitsDataModule())
    before = model.backbone.whiten.weight.clone()
    fitted(model, DigitsDataModule(limit_train=200, seed=3))
    assert torch.equal(model.backbone.whiten.weight, before)


def test_a_resumed_fit_keeps_the_filters(tmp_path):
    torch.manual_seed(0)
    model = small()
    trainer = fitted(model, DigitsDataModule())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    torch.manual_seed(1)
    resumed = small()
    asked = WhitenFirstLayer(images=3)  # others, if it looked at any
    fitted(resumed, DigitsDataModule(), [asked], epochs=2, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert torch.equal(resumed.backbone.whiten.weight, model.backbone.whiten.weight)
    assert resumed.backbone.whiten.is_whitened


def test_loaders_alone_have_nothing_to_whiten_by():
    loader = DataLoader([(torch.zeros(1, 8, 8), 0)] * 4, batch_size=2)
    with pytest.raises(ValueError, match=r"given no data module; give it an ImageDataModule.*or call whiten\(images\)"):
        fitted(small(), loader)


def test_loaders_alone_do_where_the_layer_is_whitened_already():
    loader = DataLoader([(torch.zeros(1, 8, 8), 0)] * 4, batch_size=2)
    model = small()
    model.backbone.whiten.whiten(torch.randn(20, 1, 8, 8))
    before = model.backbone.whiten.weight.clone()
    fitted(model, loader)
    assert torch.equal(model.backbone.whiten.weight, before)


def test_a_network_without_such_a_layer_is_refused():
    model = CutNet("resnet20", in_channels=1, image_size=(8, 8), local=False)
    with pytest.raises(ValueError, match="finds no layer to whiten in CutNet"):
        fitted(model, DigitsDataModule(), [WhitenFirstLayer()])


@pytest.mark.parametrize(("options", "words"), [({"images": 0}, "images=0"), ({"epsilon": 0.0}, "epsilon=0.0")])
def test_arguments_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        WhitenFirstLayer(**options)


def fit_on_two(folder):
    """Fit on both processes, each beginning with other weights; give the filters."""
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else int(os.environ["RANK"]))
    model = small()
    with quietly():
        options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 1, "limit_train_batches": 2}
        silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        Trainer(**options, **silent, enable_model_summary=False, limit_val_batches=0, default_root_dir=folder).fit(
            model, DigitsDataModule(validation_fraction=0)
        )
    return model.backbone.whiten.weight.detach().numpy()


def test_all_processes_have_the_filters_that_one_alone_has(ranks, tmp_path):
    first, second = ranks(fit_on_two, tmp_path)
    assert (first == second).all()
    data = DigitsDataModule(validation_fraction=0)
    model = small()
    fitted(model, data)
    torch.testing.assert_close(torch.from_numpy(first).abs(), model.backbone.whiten.weight.abs(), atol=1e-5, rtol=1e-5)
