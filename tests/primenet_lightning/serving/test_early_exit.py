"""Images leave early, and of those that have left nothing more is computed; counted by hooks in the layers."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import SMALL, make_model
from torch import nn

from primenet_lightning import CutNet
from primenet_lightning.analysis.cost import count_inference
from primenet_lightning.baselines import MSDNet, MultiExit, OneScale
from primenet_lightning.datamodules.description import complete_description
from primenet_lightning.nn.exits.tolerance import thresholds_of_tolerance
from primenet_lightning.serving import EarlyExit, OnnxClassifier

SHAPE = {name: SMALL[name] for name in ("in_channels", "image_size", "num_classes")}
IMAGES = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def backbone():
    convolutions = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 3))


KINDS = {
    "stack": lambda: make_model(depth=2, inference_routing=(2, 0), pool_every=()),
    "all maps": lambda: make_model(depth=2, router="concatenate"),
    "cut": lambda: CutNet(backbone(), at=["2"], recipe="dgl", **SHAPE),
    "msdnet": lambda: MSDNet(exits=2, scales=2, channels=4, **SHAPE),
}


def made(kind):
    torch.manual_seed(3)
    model = KINDS[kind]()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
    data = {"mean": 0.5, "std": 0.25, "class_names": ["a", "b", "c"]}
    model.data_description = complete_description(data, model.in_shape, 3)
    return model.eval()


def between(model):
    """Exits with thresholds at which some images leave, and some do not."""
    early = EarlyExit(model)
    for place in range(len(early.costs) - 1):
        early.thresholds[place] = 2.0
        logits = list(early.exits(IMAGES))[place]
        early.thresholds[place] = float(logits.softmax(1).amax(1).median())
    return early


class Counter:
    """Counts the multiply-adds of convolutions and dense layers as they run."""

    def __init__(self, model):
        self.total = 0
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(self.count)

    def count(self, layer, inputs, output):
        self.total += output.numel() * layer.weight[0].numel()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_above_one_nobody_leaves_and_the_answers_are_the_networks(kind):
    model = made(kind)
    early = EarlyExit(model, thresholds=1.1)
    answers = early.classify(IMAGES)
    torch.testing.assert_close(answers.logits, model(IMAGES), atol=1e-6, rtol=1e-6)
    assert answers.exits.eq(len(early.costs) - 1).all()
    assert answers.multiply_adds == 40 * early.costs[-1]
    assert early.full_cost == count_inference(model.network) <= early.costs[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_spent_is_what_hooks_count(kind):
    model = made(kind)
    with torch.no_grad():
        early = between(model)
    counter = Counter(model)
    answers = early.classify(IMAGES)
    assert answers.exits.unique().tolist() == list(range(len(early.costs)))
    assert answers.multiply_adds == counter.total
    # each image alone leaves at the same exit, by the same logits
    for row in (0, 7, 21):
        alone = early.classify(IMAGES[row : row + 1])
        assert alone.exits[0] == answers.exits[row]
        torch.testing.assert_close(alone.logits[0], answers.logits[row])


def test_exits_that_are_left_out_cost_nothing():
    model = made("stack")
    early = EarlyExit(model, 1.1, at=[1])
    counter = Counter(model)
    answers = early.classify(IMAGES)
    assert answers.multiply_adds == counter.total < EarlyExit(made("stack"), 1.1).classify(IMAGES).multiply_adds
    torch.testing.assert_close(answers.logits, model(IMAGES))
    assert EarlyExit(made("stack"), at=[]).costs == [early.full_cost]


def test_a_budget_is_kept_on_held_out_images():
    model = made("stack")
    early = EarlyExit.calibrated(model, [(IMAGES[:30], LABELS[:30]), (IMAGES[30:], LABELS[30:])], budget=30000)
    assert early.costs[0] < 30000 < early.costs[-1]
    # as many exits as stages, and at each the budget is met to an image
    most = 30000 + (len(early.costs) - 1) * (early.costs[-1] - early.costs[0]) / 40
    assert early.classify(IMAGES).multiply_adds / 40 <= most


@pytest.mark.parametrize("tolerance", [0, 4, 100])
def test_a_tolerance_is_kept_with_a_standard_error_to_spare(tolerance):
    generator = torch.Generator().manual_seed(5)
    confidence = torch.rand(2, 50, generator=generator)
    wrong = torch.rand(2, 50, generator=generator) > confidence
    confidence[1] = 1
    threshold, _ = thresholds_of_tolerance(confidence, wrong, [10, 30], tolerance)
    # one image after the other leaves early, the surest first, while the loss is allowed
    lost, leaving = np.zeros(50), 0
    for image in confidence[0].argsort(descending=True).tolist():
        lost[image] = 100 * (int(wrong[0, image]) - int(wrong[1, image]))
        if lost.mean() + lost.std() / 50**0.5 > tolerance + 1e-6:
            break
        leaving += 1
    assert int((confidence[0] >= threshold).sum()) == leaving


def test_thresholds_that_nobody_gives_are_those_of_the_model():
    msdnet = made("msdnet")
    assert EarlyExit(msdnet).thresholds == [0.9, 0.9]
    msdnet.thresholds = [0.3, -math.inf]
    assert EarlyExit(msdnet).thresholds == [0.3, -math.inf]
    assert EarlyExit(msdnet, 0.7).thresholds == [0.7, 0.7]
    multi_exit = MultiExit(exits=2, layers=1, channels=4, threshold=0.6, **SHAPE)
    assert EarlyExit(multi_exit).thresholds == [0.6, 0.6]


def test_where_exits_save_nothing_none_are_taken():
    model = made("stack")
    with torch.no_grad():
        answers = model(IMAGES).argmax(1)
    early = EarlyExit.calibrated(model, [(IMAGES, answers)], tolerance=0)
    assert torch.equal(early.classify(IMAGES).logits.argmax(1), answers)
    assert early.classify(IMAGES).multiply_adds <= 40 * early.full_cost
    loose = EarlyExit.calibrated(model, [(IMAGES, answers)], tolerance=100)
    assert loose.classify(IMAGES).multiply_adds == 40 * loose.costs[0] < 40 * loose.full_cost


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EarlyExit(OneScale(**SHAPE)), "has no local classifiers to leave by"),
        (lambda: EarlyExit(made("stack"), [0.5]), "are 1 for 3 exits"),
        (lambda: EarlyExit(made("stack"), float("nan")), "hold NaN"),
        (lambda: EarlyExit(made("stack"), at=[1, 0]), "give indices from 0 to 1, each once, rising"),
        (lambda: EarlyExit(made("msdnet"), at=[0]), "chooses among local classifiers, and a MSDNet has none"),
        (lambda: EarlyExit.calibrated(made("cut"), []), "give one of the two"),
        (lambda: EarlyExit.calibrated(made("cut"), [], budget=1e9), "batches are none"),
        (
            lambda: EarlyExit.calibrated(made("cut"), [(IMAGES, LABELS)], tolerance=-1),
            "tolerance=-1 must be",
        ),
        (lambda: EarlyExit(made("cut")).export("parts", "bfloat16"), "use 'float32' or 'float16'"),
    ],
)
def test_what_cannot_leave_early_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A stack in three parts, at whose first exit half of the images leave."""
    pytest.importorskip("onnxruntime")
    model = made("stack")
    early = EarlyExit(model, 1.1)
    with torch.no_grad():
        logits = early.exits(model.images_of(pixels()))[0]
    early.thresholds[0] = float(logits.softmax(1).amax(1).median())
    return early, early.export(tmp_path_factory.mktemp("parts") / "stack")


def pixels():
    return torch.randint(256, (20, 2, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def test_parts_answer_and_stop_as_the_model(parts):
    early, folder = parts
    assert sorted(path.name for path in folder.iterdir()) == [
        "exits.json",
        "part0.onnx",
        "part1.onnx",
        "part2.onnx",
        "run.py",
    ]
    expected = early.classify(pixels())
    answers = OnnxClassifier(folder, threads=1).classify(pixels().numpy())
    assert 0 < expected.exits.sum() < 20
    assert answers.exits.tolist() == expected.exits.tolist()
    assert answers.multiply_adds == expected.multiply_adds
    np.testing.assert_allclose(answers.logits, expected.logits.numpy(), rtol=1e-4, atol=1e-6)


def test_the_second_part_sees_only_images_that_have_not_left(parts):
    _, folder = parts
    classifier = OnnxClassifier(folder, threads=1)
    second, seen = classifier.sessions[1], []

    class Watched:
        def get_inputs(self):
            return second.get_inputs()

        def run(self, names, inputs):
            seen.extend(len(value) for value in inputs.values())
            return second.run(names, inputs)

    classifier.sessions[1] = Watched()
    taken = classifier.classify(pixels().numpy()).exits
    assert seen == [int((taken > 0).sum())] * len(second.get_inputs())


def test_the_runner_needs_nothing_of_this_package(parts):
    _, folder = parts
    code = f"import sys, runpy; runpy.run_path({str(folder / 'run.py')!r})['OnnxClassifier']({str(folder)!r}); "
    code += "assert not {'torch', 'primenet_lightning'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda described: described | {"format": 2}, "is of format 2, and this version reads up to 1"),
        (
            lambda described: described | {"parts": ["../part0.onnx", "part1.onnx", "part2.onnx"]},
            "is not in the folder itself",
        ),
        (lambda described: described | {"costs": [1]}, "has 3 parts, 3 thresholds and 1 costs"),
        (lambda described: [1], "does not describe parts with exits"),
    ],
)
def test_descriptions_that_are_not_ours_are_refused(change, sentence, parts, tmp_path):
    for path in parts[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "exits.json").read_text())
    (tmp_path / "exits.json").write_text(json.dumps(change(described)))
    with pytest.raises(ValueError, match=sentence):
        OnnxClassifier(tmp_path)


def test_parts_that_are_not_whole_or_of_others_are_refused(parts, tmp_path):
    onnx = pytest.importorskip("onnx")
    for path in parts[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = onnx.load(tmp_path / "part1.onnx")
    for entry in other.metadata_props:
        if entry.key == "class_names":
            entry.value = '["x", "y", "z"]'
    onnx.save(other, tmp_path / "part1.onnx")
    with pytest.raises(ValueError, match="another class_names than the parts before it"):
        OnnxClassifier(tmp_path)
    (tmp_path / "part1.onnx").write_bytes((tmp_path / "part1.onnx").read_bytes()[:500])
    with pytest.raises(ValueError, match="is no whole ONNX file"):
        OnnxClassifier(tmp_path)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="was not exported by primenet-lightning"):
        OnnxClassifier(tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"pixels are float32 of shape \(1, 2, 8, 8\); give uint8"):
        OnnxClassifier(parts[1]).logits(np.zeros((1, 2, 8, 8), np.float32))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        OnnxClassifier(tmp_path / "nothing.onnx")
