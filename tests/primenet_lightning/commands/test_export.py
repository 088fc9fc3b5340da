"""``primenet export``: from a checkpoint to a file, told in two lines."""

import pytest
import torch
from tiny import make_model

from primenet_lightning import PrimeNet
from primenet_lightning.commands.main import main

DATA = {"mean": [0.5, 0.25], "std": [0.25, 0.5], "class_names": ["a", "b", "c"]}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """What Lightning would save of an untrained model."""
    model = make_model()
    entries = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "data_description": DATA}
    entries |= {"class_path": "primenet_lightning.models.prime.PrimeNet", "pytorch-lightning_version": "2.6.0"}
    torch.save(entries | {"epoch": 0, "global_step": 0, "primenet_format": 2, "skipped_steps": 0}, tmp_path / "my.ckpt")
    monkeypatch.chdir(tmp_path)
    return model.eval()


def test_a_checkpoint_becomes_a_folder(checkpoint, tmp_path, capsys):
    pytest.importorskip("safetensors")
    assert main(["export", "my.ckpt", "--format", "safetensors", "--class_names", "x,y,z"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "my: pixels uint8 (batch, 2, 8, 8) -> logits float32 (batch, 3)"
    assert second.startswith("0.00 MB of weights; from the trained network in float32 at most 0.0e+00 away")
    model = PrimeNet.from_pretrained(tmp_path / "my")
    assert model.data_description["class_names"] == ["x", "y", "z"]
    images = torch.randn(3, 2, 8, 8)
    assert torch.equal(model(images), checkpoint(images))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["nothing.ckpt", "--format", "onnx"], "nothing.ckpt does not exist"),
        (["my.ckpt", "--format", "gguf"], "format='gguf' is unknown; use one of torch, onnx, safetensors"),
        (["my.ckpt", "--format", "torch", "--out", "my.ckpt"], "out=my.ckpt exists already and is not overwritten"),
        (["half.ckpt", "--format", "torch"], "half.ckpt cannot be loaded"),
        (["my.ckpt", "--format", "torch", "--class_names", "a,b"], "has 2 names for num_classes=3"),
    ],
)
def test_mistakes_are_one_sentence(args, sentence, checkpoint, tmp_path, capsys):
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "my.ckpt").read_bytes()[:2000])
    assert main(["export", *args]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.pt2"))


def test_parts_of_an_early_exit_answer_alone(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    assert main(["export", "my.ckpt", "--format", "onnx", "--early_exit", "1.5", "--out", "parts"]) == 0
    assert capsys.readouterr().out.strip().endswith("python run.py IMAGE ... in there classifies images")
    parts = sorted((tmp_path / "parts").glob("*.onnx"))
    assert [path.name for path in parts] == [f"part{index}.onnx" for index in range(len(checkpoint.network.stages))]
    assert runtime.InferenceSession(str(parts[0])).get_inputs()[0].name == "pixels"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--format", "torch"], "early_exit=0.9 is exported in parts, which are ONNX; use --format onnx"),
        (["--format", "onnx", "--probabilities"], "probabilities cannot be given by parts"),
    ],
)
def test_what_goes_with_parts(more, sentence, checkpoint, capsys):
    assert main(["export", "my.ckpt", "--early_exit", "0.9", *more]) == 1
    assert sentence in capsys.readouterr().err
