import copy
import json
import pickle
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch.utils.data import DataLoader

from primenet_lightning.datamodules import DigitsDataModule, ImageDataModule, ImageFileError, SVHNDataModule


@pytest.fixture
def loaded(numbered):
    def make(**kwargs):
        data = numbered(**kwargs)
        data.setup("fit")
        return data

    return make


def numbers(dataset, numbers_of):
    return numbers_of(dataset[torch.arange(len(dataset))][0])


# Splits


def test_validation_and_training_split_are_disjoint_complete_and_stratified(loaded, numbers_of):
    data = loaded(validation_fraction=0.15)
    train, validation = (numbers(part, numbers_of) for part in (data.train_dataset, data.validation_dataset))
    assert sorted(train + validation) == list(range(600))
    assert torch.bincount(data.validation_dataset.all_labels()).tolist() == [30, 30, 30]
    assert torch.bincount(data.train_dataset.all_labels()).tolist() == [170, 170, 170]
    assert numbers(data.test_dataset, numbers_of) == list(range(600, 690))


def test_the_seed_and_nothing_else_decides_what_is_held_out(loaded, numbers_of):
    def held_out(**kwargs):
        return numbers(loaded(**kwargs).validation_dataset, numbers_of)

    assert held_out(seed=1) == held_out(seed=1, batch_size=10, limit_train=30, normalization="standardize")
    assert held_out(seed=1) != held_out(seed=2)


def test_limit_train_is_a_stratified_part_of_the_training_split(loaded, numbers_of):
    whole, limited = loaded(), loaded(limit_train=31)
    chosen = numbers(limited.train_dataset, numbers_of)
    assert len(chosen) == 31
    assert set(chosen) < set(numbers(whole.train_dataset, numbers_of))
    assert sorted(torch.bincount(limited.train_dataset.all_labels()).tolist()) == [10, 10, 11]
    assert numbers(limited.validation_dataset, numbers_of) == numbers(whole.validation_dataset, numbers_of)


def test_both_splits_share_one_memory(loaded):
    data = loaded()
    assert data.train_dataset.images.data_ptr() == data.validation_dataset.images.data_ptr()


def test_setup_loads_once(loaded, monkeypatch):
    data = loaded()
    monkeypatch.setattr(data, "load_arrays", None)
    data.setup("test")


# Normalization and description


def test_standardize_uses_the_training_split_alone(loaded):
    data = loaded(normalization="standardize", limit_train=60)
    images = data.normalize(data.train_dataset[torch.arange(60)][0])
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert data.mean != loaded(normalization="standardize").mean


def test_description_survives_json_and_says_what_prediction_needs(loaded):
    description = loaded().description()
    assert json.loads(json.dumps(description)) == description
    assert description == {
        "dataset": "numbered",
        "class_names": ["zero", "one", "two"],
        "image_size": [1, 2],
        "in_channels": 1,
        "num_classes": 3,
        "mean": [0.5],
        "std": [0.5],
        "picture_size": [1, 2],
        "fit": None,
    }


def test_a_constant_channel_cannot_be_standardized(numbered):
    data = numbered(normalization="standardize")
    data.load_arrays = lambda: (
        np.zeros((60, 1, 2), np.uint8),
        np.arange(60) % 3,
        *numbered().load_arrays()[2:],
    )
    with pytest.raises(ValueError, match=r"Channel 0 of numbered is constant.*normalization='symmetric'"):
        data.setup("fit")


# Through Lightning


def test_augmentation_reaches_training_and_nothing_else(loaded, recorder, make_trainer, numbers_of):
    received = []

    def invert(images):
        received.append(images.dtype)
        return 255 - images

    data = loaded(augmentation=invert, batch_size=60)
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=2)
    trainer.fit(recorder, datamodule=data)
    trainer.test(recorder, datamodule=data, verbose=False)

    held_out = numbers(data.validation_dataset, numbers_of)
    assert list(chain(*recorder.numbers("validation"))) == held_out * 3  # sanity check and two epochs
    assert list(chain(*recorder.numbers("test"))) == list(range(600, 690))
    inverted = [65535 - number for number in chain(*recorder.numbers("train", epoch=0))]
    assert sorted(inverted) == numbers(data.train_dataset, numbers_of)
    assert received == [torch.uint8] * 18


def test_labels_stay_with_their_images(loaded, recorder, make_trainer):
    make_trainer().fit(recorder, datamodule=loaded(batch_size=60))
    for stage in ("train", "validation"):
        for batch, (_, _, labels) in zip(recorder.numbers(stage), recorder.batches[stage], strict=True):
            assert labels.tolist() == [number % 3 for number in batch]


def test_each_epoch_has_an_order_of_its_own(loaded, recorder, make_trainer):
    make_trainer(max_epochs=2).fit(recorder, datamodule=loaded(batch_size=60))
    first, second = (list(chain(*recorder.numbers("train", epoch))) for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


def test_overfit_batches_sees_the_same_whole_batches_every_epoch(loaded, recorder, make_trainer, numbers_of):
    data = loaded(batch_size=60)
    make_trainer(max_epochs=2, overfit_batches=2).fit(recorder, datamodule=data)
    expected = numbers(data.train_dataset, numbers_of)[:120]
    assert recorder.numbers("train", 0) == recorder.numbers("train", 1) == [expected[:60], expected[60:]]


class SaveAfter(Callback):
    def __init__(self, batches, path):
        self.batches = batches
        self.path = path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.batches:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("error:.*dataloader is not resumable.*")
@pytest.mark.parametrize("batches", [4, 9, 13, 18])
def test_a_run_resumes_with_the_next_batch(loaded, recorder, make_trainer, tmp_path, batches):
    """In the middle of an epoch of nine batches, and after its last."""
    make_trainer(max_epochs=3, callbacks=SaveAfter(batches, tmp_path / "run.ckpt")).fit(
        recorder, datamodule=loaded(batch_size=60)
    )
    resumed = type(recorder)()
    make_trainer(max_epochs=3).fit(
        resumed, datamodule=loaded(batch_size=60), ckpt_path=tmp_path / "run.ckpt", weights_only=True
    )
    assert len(recorder.numbers("train")) == 27
    assert resumed.numbers("train") == recorder.numbers("train")[batches:]
    assert torch.equal(resumed.layer.weight, recorder.layer.weight)


@pytest.mark.parametrize("batches", [3, 5, 8])
def test_a_run_of_shortened_epochs_resumes_with_the_next_batch(loaded, recorder, make_trainer, tmp_path, batches):
    save = SaveAfter(batches, tmp_path / "run.ckpt")
    make_trainer(max_epochs=3, limit_train_batches=5, callbacks=save).fit(recorder, datamodule=loaded(batch_size=60))
    resumed = type(recorder)()
    make_trainer(max_epochs=3, limit_train_batches=5).fit(
        resumed, datamodule=loaded(batch_size=60), ckpt_path=tmp_path / "run.ckpt", weights_only=True
    )
    assert resumed.numbers("train") == recorder.numbers("train")[batches:]


def test_testing_a_checkpoint_does_not_shorten_a_later_run(loaded, recorder, make_trainer, tmp_path):
    make_trainer(callbacks=SaveAfter(4, tmp_path / "run.ckpt")).fit(recorder, datamodule=loaded(batch_size=60))
    data = loaded(batch_size=60)
    make_trainer().test(recorder, datamodule=data, ckpt_path=tmp_path / "run.ckpt", verbose=False, weights_only=True)
    fresh = type(recorder)()
    make_trainer().fit(fresh, datamodule=data)
    assert len(fresh.numbers("train")) == 9


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_every_batch(loaded, numbers_of, ranks):
    """The trainer is replaced by the little that is asked of it: which rank this is, of how many, and where."""

    class Rank:
        overfit_batches = 0
        training = False
        strategy = SimpleNamespace(root_device=torch.device("cpu"))

        def __init__(self, rank):
            self.global_rank = rank
            self.world_size = ranks

    def batches(rank, loader):
        data = loaded(batch_size=60, eval_batch_size=50)
        data.trainer = None if rank is None else Rank(rank)
        return [numbers_of(images) for images, _ in getattr(data, loader)()]

    def together(loader):
        shares = [batches(rank, loader) for rank in range(ranks)]
        return [list(chain(*parts)) for parts in zip(*shares, strict=True)]

    assert together("train_dataloader") == batches(None, "train_dataloader")
    assert list(chain(*together("val_dataloader"))) == list(chain(*batches(None, "val_dataloader")))
    assert list(chain(*together("test_dataloader"))) == list(range(600, 690))


def test_predict_gives_normalized_images_and_their_paths(numbered, recorder, make_trainer, tmp_path):
    for number in range(3):
        Image.fromarray(np.array([[0, number]], dtype=np.uint8)).save(tmp_path / f"{number}.png")
    Image.new("L", (9, 9)).save(tmp_path / "large.png")
    data = numbered(predict_files=str(tmp_path), eval_batch_size=2)
    with pytest.warns(UserWarning, match=r"large\.png is 9 pixels wide"):
        batches = make_trainer().predict(recorder, datamodule=data)
    assert list(chain(*(paths for _, paths in batches))) == [str(tmp_path / f"{number}.png") for number in range(3)]
    images = torch.cat([images for images, _ in batches])
    torch.testing.assert_close(images[:, 0, 0, 1], torch.tensor([0, 1, 2]) / 127.5 - 1)


# Arguments


def test_nothing_unpicklable_or_local_is_kept_as_a_hyperparameter():
    data = SVHNDataModule(root="somewhere", augmentation=lambda images: images, extra=True, seed=3)
    saved = dict(data.hparams)
    assert saved["extra"] is True
    assert saved["seed"] == 3
    assert not {"root", "augmentation", "predict_files"} & set(saved)


def test_root_is_the_argument_then_the_environment_then_data(monkeypatch, numbered, tmp_path):
    monkeypatch.setenv("PRIMENET_DATA", str(tmp_path))
    assert numbered(root="here").root.name == "here"
    assert numbered().root == tmp_path
    monkeypatch.delenv("PRIMENET_DATA")
    assert str(numbered().root) == "data"


def test_every_argument_can_stand_in_yaml():
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = parser.parse_string(
        """
        data:
          class_path: primenet_lightning.datamodules.DigitsDataModule
          init_args:
            root: somewhere
            limit_train: 100
            normalization: standardize
            augmentation:
              class_path: torchvision.transforms.v2.RandomHorizontalFlip
              init_args: {p: 1.0}
            predict_files: [a.png, b.png]
        """
    )
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
    data = instantiate(config).data
    assert isinstance(data, DigitsDataModule)
    assert (data.batch_size, data.limit_train, data.predict_files) == (64, 100, ["a.png", "b.png"])
    assert data.augmentation(torch.tensor([[[0, 9]]])).tolist() == [[[9, 0]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1 image"),
        ({"eval_batch_size": -5}, "eval_batch_size=-5 must be at least 1 image"),
        ({"limit_train": 0}, "limit_train=0 must be at least 1 image, or None for all"),
        ({"validation_fraction": -0.1}, r"validation_fraction=-0\.1 is out of range"),
        (
            {"validation_fraction": 1.0},
            r"validation_fraction=1\.0 is out of range; give a value between 0 and 1",
        ),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"normalization": "none"}, "normalization='none' is unknown; give 'symmetric' or 'standardize'"),
    ],
)
def test_wrong_arguments_are_named(numbered, arguments, message):
    with pytest.raises(ValueError, match=message):
        numbered(**arguments)


def test_without_a_validation_split_all_images_are_trained_on(numbered, recorder, make_trainer):
    data = numbered(validation_fraction=0)
    data.setup("fit")
    assert len(data.train_dataset) == numbered.train_count
    assert not data.has_validation
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match="validation_fraction=0 leaves no validation images; test instead"):
        make_trainer().validate(recorder, datamodule=data)


@pytest.mark.parametrize(("function", "files"), [("validate", None), ("predict", "nowhere")])
def test_a_refusal_leaves_torch_as_it_was(numbered, recorder, make_trainer, function, files):
    """Lightning patches torch's loaders while it asks for them, and does not mend them after an error."""
    data = numbered(validation_fraction=0, predict_files=files)
    before = DataLoader.__init__
    with pytest.raises(ValueError, match=r"validation_fraction=0|nowhere"):
        getattr(make_trainer(), function)(recorder, datamodule=data)
    assert DataLoader.__init__ is before


@pytest.mark.parametrize(
    ("arguments", "train_count", "message"),
    [
        (
            {"limit_train": 541},
            600,
            "limit_train=541 is more than the 540 training images of numbered; give at most",
        ),
        (
            {"limit_train": 2},
            600,
            "training split of numbered has no image of class 'two'; raise limit_train=2",
        ),
        ({}, 20, "validation split of numbered has no image of class 'two'; raise validation_fraction=0.1"),
        (
            {"validation_fraction": 1e-6},
            600,
            "validation split .* no image of class .*; raise validation_fraction=1e-06",
        ),
        (
            {"validation_fraction": 0.9},
            9,
            "training split .* no image of class 'zero', 'one'; lower validation_fr",
        ),
    ],
)
def test_every_class_is_in_every_split(numbered, monkeypatch, arguments, train_count, message):
    monkeypatch.setattr(numbered, "train_count", train_count)
    with pytest.raises(ValueError, match=message):
        numbered(**arguments).setup("fit")


def test_a_batch_that_does_not_divide_is_an_error_for_training(loaded, make_trainer):
    data = loaded(batch_size=25)
    data.trainer = make_trainer(devices=2, strategy="ddp_spawn")
    with pytest.raises(ValueError, match="batch_size=25 is the global batch and does not divide by 2 ranks"):
        data.train_dataloader()


def test_data_before_setup_and_files_that_are_not_there(numbered, tmp_path):
    data = numbered(predict_files=[str(tmp_path / "a.png")])
    with pytest.raises(RuntimeError, match=r"Numbered holds no data yet; call setup\('fit'\) first"):
        data.train_dataloader()
    with pytest.raises(ImageFileError, match=r"None of the 1 files can be used: .*a\.png does not exist"):
        data.predict_dataloader()
    with pytest.raises(ValueError, match="predict_files=None names nothing to predict"):
        numbered().predict_dataloader()


# Classes and labels


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("zero", "one"), "class_names of numbered has 2 names for num_classes=3; give one name for each class"),
        (("zero", "one", "two", "three"), "class_names of numbered has 4 names for num_classes=3"),
        (("zero", "one", "one"), "class_names of numbered has 'one' 2 times; give each class a name of its own"),
        (("zero", "", "two"), "class_names of numbered has '' for class 1; give each class a name"),
        ((0, 1, 2), "class_names of numbered has 0 for class 0; give each class a name"),
        ((), "class_names of numbered has 0 names for num_classes=3"),
        ("abc", "class_names='abc' of numbered is one text; give a tuple"),
    ],
)
def test_names_that_do_not_tell_the_classes_apart_are_refused(numbered, monkeypatch, names, message):
    monkeypatch.setattr(numbered, "class_names", names)
    with pytest.raises(ValueError, match=message):
        numbered().setup()


@pytest.fixture
def labelled(numbered, monkeypatch):
    """A data set of given training labels."""

    def make(labels, **attributes):
        for name, value in attributes.items():
            monkeypatch.setattr(numbered, name, value)
        images = np.zeros((len(labels), 1, 2), np.uint8)
        monkeypatch.setattr(numbered, "load_arrays", lambda self: (images, labels, images, labels))
        data = numbered()
        data.setup()
        return data

    return make


def test_labels_from_one_are_told_apart_from_too_few_images(labelled):
    labels = np.arange(60) % 3 + 1
    four = dict(num_classes=4, class_names=("?", "a", "b", "c"))
    with pytest.raises(ValueError, match=r"numbered has no training image at all of class '\?'; .*labels count from 0"):
        labelled(labels, **four)
    with pytest.raises(
        ValueError, match=r"train label is 3; num_classes=3 allows 0 to 2\. .*count from 0: give labels - 1"
    ):
        labelled(labels, num_classes=3, class_names=("a", "b", "c"))


def test_a_class_in_the_middle_or_many_without_an_image(labelled):
    with pytest.raises(
        ValueError, match="no training image at all of class 'one'; add images of it, or leave the class"
    ):
        labelled(np.arange(60) % 2 * 2)
    names = tuple(f"c{i}" for i in range(40_000))
    with pytest.raises(ValueError, match=r"of class 'c10', 'c11', 'c12', 'c13', 'c14', \.\.\. \(39990 classes\);"):
        labelled(np.arange(60) % 10, num_classes=40_000, class_names=names)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", ">i4", "<u4", "int64", "uint64"])
def test_whole_numbers_of_every_kind_are_labels(labelled, kind):
    labels = (np.arange(60) % 3).astype(kind)
    assert labelled(labels).train_dataset.labels.tolist() == labels.tolist()
    torch_labels = torch.from_numpy(labels.astype(np.int64)).to(torch.int32)
    assert labelled(torch_labels).train_dataset.labels.dtype == torch.int64


# Copies


def test_a_data_module_can_be_pickled_and_copied_after_a_fit(loaded, recorder, make_trainer):
    data = loaded(batch_size=60)
    trainer = make_trainer()
    trainer.fit(recorder, datamodule=data)
    trainer.validate(recorder, datamodule=data, verbose=False)
    for copied in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data), copy.copy(data)):
        assert copied.trainer is None
        assert torch.equal(copied.train_dataset.indices, data.train_dataset.indices)
        assert torch.equal(copied.train_dataset.images, data.train_dataset.images)
    assert data.trainer is trainer
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = pickle.loads(pickle.dumps(getattr(data, name)()))
        expected = next(iter(getattr(copy.deepcopy(data), name)()))
        assert all(map(torch.equal, next(iter(loader)), expected))


def test_a_copy_trains_as_the_data_module_itself(loaded, recorder, make_trainer):
    data = loaded(batch_size=60)
    make_trainer().fit(recorder, datamodule=data)
    again = type(recorder)()
    make_trainer().fit(again, datamodule=pickle.loads(pickle.dumps(data)))
    assert again.numbers("train") == recorder.numbers("train")
