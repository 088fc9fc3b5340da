import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import Prediction, load_model, predict_files
from primenet_lightning.baselines import MultiExit
from primenet_lightning.commands.main import main
from primenet_lightning.datamodules import DigitsDataModule


def save(model, path):
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
    trainer.fit(model, DigitsDataModule(normalization="standardize"))
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
