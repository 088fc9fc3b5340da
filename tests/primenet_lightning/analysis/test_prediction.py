import re

import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from tiny import quiet
from torch.utils.data import DataLoader, TensorDataset

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import Prediction, load_model, predict_files
from primenet_lightning.baselines import MultiExit
from primenet_lightning.commands.main import main
from primenet_lightning.datamodules import DigitsDataModule


def save(model, path, data=None):
    """Train a little by a plain Trainer, without the command line."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path.parent,
    )
    trainer.fit(model, data or DigitsDataModule(normalization="standardize"))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(PrimeNet(depth=1, kernel_sizes=(3, 5)), tmp_path_factory.mktemp("plain") / "some.ckpt")


def test_loads_what_a_plain_trainer_saved(checkpoint):
    model = load_model(checkpoint)
    assert not model.training
    assert model.network.capsule_names == [["block0.k3", "block0.k5"]]
    assert model.data_description["class_names"] == list("0123456789")


def test_predictions_are_the_models_own_on_the_same_pixels(checkpoint, tmp_path):
    pixels = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(tmp_path / f"{index}.png")
    Image.new("L", (8, 7)).save(tmp_path / "flat.png")
    Image.fromarray(pixels[0].numpy()).convert("RGB").save(tmp_path / "colour.png")
    model = load_model(checkpoint)
    data = model.data_description
    scaled = (pixels[:, None] / 255 - torch.tensor(data["mean"])) / torch.tensor(data["std"])
    with torch.no_grad():
        expected = torch.softmax(model(scaled), 1)
    found = list(predict_files(model, [tmp_path]))
    assert [prediction.path for prediction in found] == [
        str(tmp_path / name) for name in ("0.png", "1.png", "2.png", "colour.png", "flat.png")
    ]
    for prediction, row in zip(found[:4], [*expected, expected[0]], strict=True):
        assert prediction.label == str(int(row.argmax()))
        assert prediction.probability == pytest.approx(row.max().item(), abs=1e-5)
        assert prediction.error is None
    assert found[4][1:3] == (None, None)
    assert "8 pixels wide and 7 high" in found[4].error


def test_a_baseline_predicts_too(tmp_path, capsys):
    """One that leaves at its first exit, which only its checkpoint says."""
    path = save(MultiExit(exits=2, threshold=0.0), tmp_path / "exits.ckpt")
    pixels = torch.randint(256, (8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "it.png")
    model = load_model(path)
    assert isinstance(model, MultiExit)
    assert not model.training
    data = model.data_description
    with torch.no_grad():
        logits = model.network.model((pixels[None, None] / 255 - data["mean"][0]) / data["std"][0])[0]
    probability, label = logits.softmax(1)[0].max(0)
    (found,) = predict_files(model, [tmp_path / "it.png"])
    assert (found.label, found.error) == (str(label.item()), None)
    assert found.probability == pytest.approx(probability.item(), abs=1e-5)
    assert main(["predict", f"--ckpt={path}", str(tmp_path / "it.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'it.png'}\t{found.label}\t{found.probability:.4f}\n"


def test_files_are_read_one_at_a_time(checkpoint, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    predictions = predict_files(load_model(checkpoint), [tmp_path / "a.png", tmp_path / "b.png"])
    assert next(predictions).label is not None
    Image.new("L", (8, 8)).save(tmp_path / "b.png")  # early enough: nobody has looked for it yet
    assert next(predictions).error is None


def test_missing_file_and_empty_folder_are_told(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    found = list(predict_files(load_model(checkpoint), [tmp_path / "no.png", tmp_path / "empty"]))
    assert [type(prediction) for prediction in found] == [Prediction, Prediction]
    assert "does not exist" in found[0].error
    assert "has no image files" in found[1].error


def test_unusable_checkpoints_are_told_in_one_line(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ckpt=.*no\.ckpt does not exist; give a run folder"):
        load_model(tmp_path / "no.ckpt")
    saved = torch.load(checkpoint, weights_only=True)

    def error(**changes):
        torch.save(saved | changes, tmp_path / "changed.ckpt")
        with pytest.raises(ValueError, match=r"^ckpt=") as caught:
            load_model(tmp_path / "changed.ckpt")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not describe its data" in error(data_description=None)
    assert "cannot be loaded (Error(s) in loading state_dict" in error(state_dict={})
    assert "No module named 'nowhere'" in error(class_path="nowhere.Net")
    assert "pathlib.Path is no subclass of LocalLearner" in error(class_path="pathlib.Path")
    assert "cannot be loaded (" in error(class_path="primenet_lightning.LinearProbe")
    boring = "lightning.pytorch.demos.boring_classes.BoringModel"
    assert f"{boring} is no subclass of LocalLearner" in error(class_path=boring)
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(tmp_path / "cut.ckpt")


# Networks that were trained by a DataLoader of one's own


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint that knows nothing of its data: colour images of 8 by 6, three classes."""
    path = tmp_path_factory.mktemp("own") / "own.ckpt"
    images, labels = torch.randn(12, 3, 8, 6), torch.arange(12) % 3
    model = PrimeNet(3, (8, 6), 3, depth=1, kernel_sizes=(3,), channels=2, projection_channels=2, head_channels=4)
    trainer = Trainer(**quiet(path.parent))
    trainer.fit(model, DataLoader(TensorDataset(images, labels), batch_size=4))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def photo(tmp_path):
    pixels = torch.randint(256, (8, 6, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png", pixels.permute(2, 0, 1)[None]


def test_the_description_can_be_given(plain, photo):
    path, pixels = photo
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model = load_model(plain, {"mean": mean, "std": std, "class_names": ("cat", "dog", "mouse")})
    (found,) = predict_files(model, [path])
    scaled = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        expected = model(scaled).softmax(1)[0]
    assert found.label == ("cat", "dog", "mouse")[expected.argmax()]
    assert found.probability == pytest.approx(expected.max().item(), abs=1e-5)
    assert load_model(plain, {"mean": 0.5, "std": 0.5}).data_description["class_names"] == ["0", "1", "2"]


def test_the_command_takes_the_description(plain, photo, tmp_path, capsys):
    path, _ = photo
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\nmouse\n")
    model = load_model(plain, {"mean": [0.1, 0.2, 0.3], "std": 0.5, "class_names": ["cat", "dog", "mouse"]})
    (expected,) = predict_files(model, [path])
    for given in ("cat,dog,mouse", "[cat, dog, mouse]", str(names)):
        options = ["--mean=0.1,0.2,0.3", "--std", "0.5", "--class_names", given, str(path)]
        assert main(["predict", "--ckpt", str(plain), *options]) == 0
        assert capsys.readouterr().out == f"{path}\t{expected.label}\t{expected.probability:.4f}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "does not describe its data, as one trained with an ImageDataModule does; say .* by --mean and --std"),
        (["--mean", "0.5"], "does not describe its data"),
        (["--mean", "half", "--std", "0.5"], "mean='half' is no number; give one, or one for each channel"),
        (["--mean", "0.5", "--std", "0.5,0.5"], "std has 2 numbers for in_channels=3"),
        (["--mean", "0.5", "--std", "0"], r"std=\[0\.0\] must be positive"),
        (["--mean", "0.5", "--std", "0.5", "--class_names", "cat,dog"], "class_names of the checkpoint has 2 names"),
    ],
)
def test_what_the_command_needs_to_know_is_told(plain, photo, capsys, options, message):
    assert main(["predict", "--ckpt", str(plain), *options, str(photo[0])]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search(message, told)


# Pictures of another size


def test_pictures_are_resized_only_when_asked(checkpoint, tmp_path, capsys):
    large = torch.arange(256, dtype=torch.uint8).view(16, 16)
    Image.fromarray(large.numpy()).save(tmp_path / "large.png")
    Image.fromarray(large.numpy()).resize((8, 8), Image.Resampling.BILINEAR).save(tmp_path / "small.png")
    command = ["predict", "--ckpt", str(checkpoint)]
    assert main([*command, str(tmp_path / "large.png")]) == 1
    assert "large.png is 16 pixels wide and 16 high, the network takes 8 by 8;" in (told := capsys.readouterr().err)
    assert "--resize" in told
    assert main([*command, "--resize", str(tmp_path / "large.png"), str(tmp_path / "small.png")]) == 0
    resized, small = capsys.readouterr().out.splitlines()
    assert resized.split("\t")[1:] == small.split("\t")[1:]


@pytest.mark.parametrize("name", ["zoom", ""])
def test_an_unknown_way_to_resize_is_refused(checkpoint, tmp_path, name):
    with pytest.raises(ValueError, match=f"fit='{name}' is unknown; give 'stretch'"):
        list(predict_files(load_model(checkpoint), [tmp_path], fit=name))


def test_a_network_for_resized_batches_takes_pictures_of_the_datas_size(tmp_path):
    data = DigitsDataModule(resize=12)
    path = save(PrimeNet(image_size=data.image_size, depth=1, kernel_sizes=(3,)), tmp_path / "r.ckpt", data)
    digits = data.test_dataset.images[:3]
    for index, image in enumerate(digits):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{index}.png")
    model = load_model(path)
    with torch.no_grad():
        expected = model(data.normalize(digits)).softmax(1).max(1).values
    found = list(predict_files(model, [tmp_path]))
    torch.testing.assert_close(torch.tensor([one.probability for one in found]), expected)


def test_a_checkpoint_with_too_few_names_is_told(checkpoint, tmp_path):
    """As version 0.1 saved them."""
    saved = torch.load(checkpoint, weights_only=True)
    saved["data_description"] |= {"class_names": ["a", "b"]}
    torch.save(saved, tmp_path / "few.ckpt")
    with pytest.raises(ValueError, match="class_names of the checkpoint has 2 names for num_classes=10"):
        load_model(tmp_path / "few.ckpt")
    names = list("abcdefghij")
    assert load_model(tmp_path / "few.ckpt", {"class_names": names}).data_description["class_names"] == names
