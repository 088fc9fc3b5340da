"""What is exported answers as the model does, for batches of any size, and holds no more than that needs."""

import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch
from tiny import SMALL, make_model

from primenet_lightning import CutNet
from primenet_lightning.baselines import CondenseNet, DTRAMNet, MSDNet, MultiExit, OneNet
from primenet_lightning.nn.prime.mixing import Gate
from primenet_lightning.serving import OnnxClassifier, export
from primenet_lightning.serving.networks import FromPixels

DATA = {"mean": [0.5, 0.25], "std": [0.25, 0.5], "class_names": ["a", "b", "c"]}
SHAPE = {name: SMALL[name] for name in ("in_channels", "image_size", "num_classes")}


def backbone():
    norm = torch.nn.BatchNorm2d(4)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        norm,
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    )


KINDS = {
    "fixed": lambda: make_model(router="fixed", router_options={"capsule": 2}),
    "stack": lambda: make_model(depth=2, inference_routing=(1, 2), pool_every=1),
    "min_entropy": lambda: make_model(inference_routing="min_entropy"),
    "gate": lambda: make_model(router="gate"),
    "twin": lambda: make_model(router="concatenate", local=False),
    "cut": lambda: CutNet(backbone(), at=["3"], **SHAPE),
    "multi_exit": lambda: MultiExit(exits=2, layers=1, channels=4, **SHAPE),
    "msdnet": lambda: MSDNet(exits=2, scales=2, channels=4, **SHAPE),
    "one": lambda: OneNet(depth=8, branches=2, **SHAPE),
    "ensemble": lambda: OneNet(depth=8, branches=2, predicts="ensemble", **SHAPE),
}


def made(kind):
    """A network whose batch norms have seen something."""
    torch.manual_seed(1)
    model = KINDS[kind]()
    norms = [part for part in model.modules() if hasattr(part, "running_mean")]
    for part in norms:
        part.running_mean.normal_()
        part.running_var.uniform_(0.5, 2)
    model.eval()
    if isinstance(model, MultiExit):  # at which some images leave early, and some do not
        first = model.network.model(torch.randn(64, 2, 8, 8))[0]
        model.threshold = float(first.softmax(1).amax(1).median())
    return model


def pixels_of(batch):
    return torch.randint(256, (batch, 2, 8, 8), generator=torch.Generator().manual_seed(batch), dtype=torch.uint8)


def eager(model, pixels):
    """The model on pixels that are normalised here."""
    mean, std = (torch.tensor(DATA[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return model((pixels / 255 - mean) / std)


def close(answers, expected):
    return torch.dist(answers, expected, torch.inf) < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("fixed", "stack")])
def test_programs_answer_as_the_model(kind, tmp_path):
    model = made(kind)
    exported = export(model, tmp_path / "network.pt2", "torch", description=DATA)
    program = torch.export.load(tmp_path / "network.pt2").module()
    for batch in (1, 5):
        assert close(program(pixels_of(batch)), eager(model, pixels_of(batch)))
    assert exported.error < 1e-5


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack, and what it is exported to, by format."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("stack")
    model = made("stack")
    formats = ("torch", "onnx", "safetensors")
    return model, {format: export(model, folder / format, format, description=DATA) for format in formats}


def assert_answers_as(model, path):
    classifier = OnnxClassifier(path, threads=1)
    for batch in (1, 5):
        assert close(torch.from_numpy(classifier.logits(pixels_of(batch).numpy())), eager(model, pixels_of(batch)))
    assert classifier.class_names == ["a", "b", "c"]
    assert (classifier.metadata["image_size"], classifier.metadata["output"]) == ([8, 8], "logits")


def test_onnxruntime_answers_as_the_model(stack):
    model, exported = stack
    assert_answers_as(model, exported["onnx"].path)


def test_onnxruntime_answers_by_thresholds_as_the_model(tmp_path):
    pytest.importorskip("onnxruntime")
    model = made("multi_exit")
    export(model, tmp_path / "network.onnx", description=DATA)
    assert_answers_as(model, tmp_path / "network.onnx")


def test_images_leave_at_different_exits_in_the_one_graph():
    model = made("multi_exit")
    taken = model.network.model.classify(torch.randn(64, 2, 8, 8), model.threshold)[1]
    assert 0 < taken.sum() < 64


def test_the_file_of_a_routed_block_holds_the_routed_weights_alone(stack):
    model, exported = stack
    routed = [*model.network.head.parameters(), *model.network.head.buffers()]
    for block, choice in zip(model.network.prime_blocks, (1, 2), strict=True):
        for part in (block.capsule(choice).features, block.projection):
            routed += [*part.parameters(), *part.buffers()]
    least = sum(tensor.numel() * 4 for tensor in routed)
    for each in exported.values():
        assert 0.8 * least < each.weight_bytes <= 1.05 * least


def test_half_precision_and_probabilities(tmp_path):
    model = made("fixed")
    exported = export(model, tmp_path / "a.pt2", "torch", dtype="bfloat16", probabilities=True, description=DATA)
    answers = torch.export.load(tmp_path / "a.pt2").module()(pixels_of(4))
    assert 1e-5 < exported.error < 0.05
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers, eager(model, pixels_of(4)).softmax(1), atol=0.05, rtol=0)
    # the metadata can be read without loading anything
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("primenet.json")]
        saved = json.loads(archive.read(name))
    assert (saved["output"], saved["dtype"], saved["class_names"]) == ("probabilities", "bfloat16", ["a", "b", "c"])


def test_condensed_networks_are_converted(tmp_path):
    torch.manual_seed(0)
    model = CondenseNet(layers=[1, 1], growth=[8, 8], groups=2, condensation=2, **SHAPE).eval()
    with pytest.raises(ValueError, match="cannot be converted; train it"):
        export(model, tmp_path / "early.pt2", "torch", description=DATA)
    model.condense_network.condense(1.0)
    export(model, tmp_path / "a.pt2", "torch", description=DATA)
    assert close(torch.export.load(tmp_path / "a.pt2").module()(pixels_of(3)), eager(model, pixels_of(3)))


class Peeking(Gate):
    """Decides by a number that a trace does not follow."""

    def infer(self, x, features, index):
        return features[int(x.sum() > 0)](x)


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda: make_model(router="gate", router_options={"per": "batch"}), {}, "blocks.0.router is a gate with per"),
        (lambda: DTRAMNet(**SHAPE), {}, "a DTRAMNet decides image by image"),
        (lambda: make_model(inference_routing="oracle"), {}, "'oracle' routes by labels"),
        (lambda: make_model(router="peeking.Peeking"), {}, "cannot be exported, since its forward is no graph"),
        (KINDS["fixed"], {"format": "tflite"}, "format='tflite' is unknown; use one of torch, onnx, safetensors"),
        (KINDS["fixed"], {"dtype": "int8"}, "dtype='int8' is unknown"),
        (KINDS["fixed"], {"format": "onnx", "dtype": "bfloat16"}, "not computed by onnxruntime"),
        (KINDS["fixed"], {"description": {}}, "does not describe its data"),
        (
            KINDS["fixed"],
            {"description": DATA | {"class_names": ["a", "b"]}},
            "class_names of the checkpoint has 2",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_written(make, options, sentence, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peeking", SimpleNamespace(Peeking=Peeking))
    with pytest.raises(ValueError, match=sentence):
        export(make(), tmp_path / "network", **({"format": "torch", "description": DATA} | options))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already and is not overwritten"):
        export(made("fixed"), tmp_path / "mine.onnx", description=DATA)


class Changed(CutNet):
    """Predicts otherwise than its network, and nobody told the exporter."""

    def forward(self, x):
        return -super().forward(x)


def test_what_would_answer_otherwise_is_not_written(tmp_path):
    model = Changed(backbone(), at=["3"], **SHAPE)
    with pytest.raises(ValueError, match="answers otherwise than the model"):
        export(model, tmp_path / "a.pt2", "torch", description=DATA)
    assert not (tmp_path / "a.pt2").exists()


def test_pixels_are_normalised_as_by_hand():
    network = FromPixels(torch.nn.Flatten(), DATA["mean"], DATA["std"])
    torch.testing.assert_close(network(pixels_of(2)), eager(torch.nn.Flatten(), pixels_of(2)))
