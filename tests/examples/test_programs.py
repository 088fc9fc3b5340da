"""Each program runs on little data, learns, and does what its first lines say."""

import csv
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stepping import run_stages
from torch.nn.functional import cross_entropy
from torchvision.models import ResNet

from primenet_lightning import PrimeNet, collect_local_losses, local_targets
from primenet_lightning.training.loss_log import LossLog

FOLDER = Path(__file__).parents[2] / "examples"
CHECK = "primenet_lightning.datamodules.downloaded.check_files"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def curves_of(module):
    (curves,) = [callback for callback in module.trainer.callbacks if isinstance(callback, LossLog)]
    return [losses for _, losses in curves.epochs]


def striped(count, channels, side):
    """Noise with a bright band at a height that tells the class, of ten."""
    labels = np.arange(count) % 10
    images = np.random.default_rng(count).integers(0, 100, (count, channels, side, side))
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 4] += 150
    return images.astype(np.uint8), labels


def assert_learns_alone(losses, parameters):
    """Each loss has a gradient for all parameters of its own learner, and for none of the others'."""
    assert losses.keys() == parameters.keys()
    owners, everyone = zip(*((name, one) for name, theirs in parameters.items() for one in theirs), strict=True)
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, everyone, retain_graph=True, allow_unused=True)
        reached = [owner for owner, gradient in zip(owners, gradients, strict=True) if gradient is not None]
        assert reached == [owner for owner in owners if owner == name]


def losses_of(network, images, labels):
    """All stages' losses by name."""
    losses = {}
    for stage in run_stages(network, images, labels):
        losses |= stage.losses
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_a_program_shows_and_how_to_run_it(example, name, capsys):
    with pytest.raises(SystemExit) as stopped:
        example(name).main(["--help"])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    assert f"python examples/{name}.py" in help_text
    # every option that its commands give is there
    commands = re.findall(rf"python examples/{name}\.py([^#\n]*)", help_text)
    for option in re.findall(r"--[\w-]+", " ".join(commands)):
        assert re.search(rf"^  {option}\b", help_text, flags=re.MULTILINE), option


def test_every_program_is_in_the_list():
    listed = re.findall(r"\]\(([\w.]+)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".ipynb"))


def test_train_mnist(example, tmp_path, monkeypatch):
    """The error is that of the checkpoint, loaded anew and run by hand."""
    monkeypatch.setattr(CHECK, lambda *args, **kwargs: None)  # the files are in MNIST's format, and are not MNIST
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 340), ("t10k", 100)):
        images, labels = striped(count, 1, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        header = struct.pack(">II", 2049, count)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
    module = example("train_mnist")
    error = module.main(["--data", str(tmp_path), "--epochs", "2", "--limit", "300", "--batch-size", "15"])
    (best,) = tmp_path.rglob("best.ckpt")
    model = PrimeNet.load_from_checkpoint(best, weights_only=True).eval()
    pixels, truth = striped(100, 1, 28)
    with torch.no_grad():
        answers = model(torch.tensor(pixels) / 127.5 - 1).argmax(1)
    assert error == pytest.approx(100 * np.mean(answers.numpy() != truth), abs=1e-4)
    assert error < 50  # guessing: 90
    with next(tmp_path.rglob("metrics.csv")).open(newline="") as file:
        losses = [float(row["train/loss/head"]) for row in csv.DictReader(file) if row["train/loss/head"]]
    assert losses[-1] < losses[0] / 2


def test_inception_capsules(example):
    module = example("inception_capsules")
    module.main(["--epochs", "3", "--limit", "300"])
    # guessing: 90; the head would need more than 15 steps, and each capsule of the first block learns by itself
    assert all(module.trainer.callback_metrics[f"test/error/block0.{name}"] < 60 for name in ("i3", "i5", "i7"))
    first, *_, last = curves_of(module)
    assert {"block0.i3", "block0.i7", "block1.i5", "head"} < first.keys()
    assert all(last[name] < first[name] for name in first)


def test_inception_capsules_learn_alone_and_at_three_scales(example):
    model = example("inception_capsules").InceptionPrimeNet(1, (8, 8), 10, depth=2)
    network = model.network
    assert_learns_alone(losses_of(network, torch.randn(4, 1, 8, 8), torch.arange(4)), network.learners())
    # what one pixel of the output sees of the input, by its gradient
    for name, capsule in network.prime_blocks[0].capsules.items():
        x = torch.zeros(1, 1, 15, 15, requires_grad=True)
        capsule.eval().features(torch.randn(1, 1, 15, 15) + x)[..., 7, 7].sum().backward()
        assert x.grad[0, 0].any(0).nonzero().flatten().tolist() == [
            *range(7 - int(name[1]) // 2, 8 + int(name[1]) // 2)
        ]


@pytest.mark.parametrize(("name", "prefix"), [("residual_capsules", "r"), ("attention_capsules", "a")])
def test_capsules_of_the_papers_future_work(example, name, prefix):
    module = example(name)
    module.main(["--epochs", "3", "--limit", "300"])
    first, *_, last = curves_of(module)
    assert {f"block{block}.{prefix}{size}" for block in (0, 1) for size in (3, 5, 7)} < first.keys()
    assert all(last[learner] < first[learner] for learner in first)


def test_residual_capsules_add_to_their_input(example):
    block = example("residual_capsules").Residual(2, 4, 5).eval()
    x = torch.randn(3, 2, 6, 6)
    convolution, norm = block.layers[1][0], block.layers[1][1]
    torch.nn.init.zeros_(norm.weight)  # which leaves the shortcut alone
    assert convolution.kernel_size == (5, 5)
    torch.testing.assert_close(block(x), block.shortcut(x).relu())


def test_resnet_backbone(example):
    module = example("resnet_backbone")
    assert module.main(["--epochs", "2", "--limit", "300"]) < 90  # guessing
    first, last = curves_of(module)
    assert first.keys() == {"part0", "part1", "part2", "head", "total"}
    assert all(last[name] < first[name] for name in first)
    assert isinstance(module.trainer.model.backbone, ResNet)


def test_resnet_backbone_takes_imagenets_weights_where_asked(example, monkeypatch):
    asked = []
    module = example("resnet_backbone")

    def remembered(*args, **options):
        asked.append(options["pretrained"])
        raise InterruptedError

    monkeypatch.setattr(module, "CutNet", remembered)
    for arguments in ([], ["--pretrained"]):
        with pytest.raises(InterruptedError):
            module.main(arguments)
    assert asked == [False, True]


def test_timm_vit_without_timm_is_refused_in_a_sentence(example, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SystemExit):
        example("timm_vit").main([])
    message = "backbone='timm/vit_tiny_patch16_224' is a model of timm, which is not installed; install it"
    assert message in capsys.readouterr().err


def test_timm_vit(example):
    pytest.importorskip("timm")
    module = example("timm_vit")
    module.main(["--epochs", "2", "--limit", "150"])
    first, last = curves_of(module)
    assert all(last[name] < first[name] for name in first)


def test_block_in_a_foreign_model(example, capsys):
    error = example("block_in_a_foreign_model").main(["--epochs", "4", "--limit", "300"])
    assert error < 60
    first, *_, last, _ = [
        [float(value) for value in re.findall(r"\d\.\d{3}", line)] for line in capsys.readouterr().out.splitlines()
    ]
    assert len(first) == 2 * 4 + 1
    assert all(after < before for before, after in zip(first, last, strict=True))


def test_blocks_in_a_foreign_model_learn_alone(example):
    model = example("block_in_a_foreign_model").build()
    labels = torch.arange(6)
    with local_targets(labels):
        logits = model(torch.randn(6, 1, 8, 8))
    losses = collect_local_losses(model) | {"rest": cross_entropy(logits, labels)}
    parameters = {name: [] for name in losses}
    for path, parameter in model.named_parameters():
        place, _, inside = path.partition(".")
        own = inside.split(".")[1] if inside.startswith("capsules.") else "projection"
        parameters[f"{place}.{own}" if place in ("0", "2") else "rest"].append(parameter)
    assert_learns_alone(losses, parameters)


def test_pure_torch(example, capsys):
    """Every loss falls; and when it goes backward makes no difference to the numbers."""
    module = example("pure_torch")
    assert module.main(["--epochs", "5"]) < 60  # guessing: 90
    lines = capsys.readouterr().out.splitlines()
    first, last = ([float(value) for value in re.findall(r"\d\.\d{3}", line)] for line in (lines[0], lines[4]))
    assert len(first) == 3 + 1
    assert all(after < before for before, after in zip(first, last, strict=True))
    module.main(["--epochs", "5", "--backward", "learner"])
    assert capsys.readouterr().out.splitlines() == lines


def test_own_dataset(example):
    module = example("own_dataset")
    assert module.main(["--epochs", "3", "--count", "400"]) < 55  # guessing: 75
    first, *_, last = curves_of(module)
    assert all(last[name] < first[name] for name in first)


def test_shapes_are_what_their_names_say(example):
    """Averaged over many, rings have the darkest middle, and squares the brightest corners."""
    module = example("own_dataset")
    images, labels = module.draw(2000, seed=3)
    means = {name: images[labels == label].mean(0) for label, name in enumerate(module.ShapesDataModule.class_names)}
    middle = {name: mean[7:9, 7:9].mean() for name, mean in means.items()}
    corners = {name: mean[[4, 4, 11, 11], [4, 11, 4, 11]].mean() for name, mean in means.items()}
    assert min(middle, key=middle.get) == "ring"
    assert max(corners, key=corners.get) == "square"
    assert not np.array_equal(images, module.draw(2000, seed=4)[0])
