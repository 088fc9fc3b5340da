"""Networks in folders without code: what is read answers as what was saved; what is not to be trusted is refused."""

import json
import pickle

import pytest
import torch
from lightning.pytorch import Trainer
from tiny import SMALL, TinyData, make_model, quiet

from primenet_lightning import CutNet, EndToEnd, PrimeNet, count_cost
from primenet_lightning.baselines import IMTA, CondenseNet, MSDNet, OneNet, OneScale, TargetResNet
from primenet_lightning.models import pretrained

pytest.importorskip("safetensors")

DATA = {"mean": 0.5, "std": 0.25, "class_names": ["a", "b", "c"]}
SHAPE = {name: SMALL[name] for name in ("in_channels", "image_size", "num_classes")}
IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def described(model):
    model.data_description = DATA
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stack, of each block one capsule routed."""
    model = described(make_model(depth=2, inference_routing=(2, 1)))
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "stack")


@pytest.fixture
def changed(folder, tmp_path):
    """Copies the folder, with other entries in its config."""

    def change(**entries):
        saved = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(saved | entries))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        return tmp_path

    return change


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_model(depth=2, inference_routing=(2, 1)),
        lambda: make_model(router="commit", pool_every=(0,), depth=2),
        lambda: make_model(inference_routing="min_entropy"),
        lambda: make_model(router="gate", router_options={"per": "batch"}),
        lambda: make_model(router="concatenate", local=False),
        lambda: CutNet("resnet20", at=["blocks.7"], **SHAPE),
        lambda: OneScale(**SHAPE),
    ],
)
@torch.no_grad()
def test_what_is_read_answers_to_the_bit(make, tmp_path):
    model = described(make())
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    before = torch.random.get_rng_state()
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert again.data_description["class_names"] == ["a", "b", "c"]
    assert again.hparams.keys() == model.hparams.keys()


@torch.no_grad()
def test_what_is_left_when_training_is_over_is_saved(tmp_path):
    condensed = described(CondenseNet(layers=[1, 1], growth=[4, 8], **SHAPE))
    with pytest.raises(ValueError, match="cannot be converted; train it beyond the half"):
        condensed.save_pretrained(tmp_path / "early")
    assert not (tmp_path / "early").exists()
    condensed.condense_network.condense(1.0)
    read = CondenseNet.from_pretrained(condensed.save_pretrained(tmp_path / "condensed"))
    torch.testing.assert_close(read(IMAGES), condensed(IMAGES))
    assert sum(p.numel() for p in read.parameters()) == count_cost(condensed.network).parameters
    one = described(OneNet(depth=8, **SHAPE))
    read = EndToEnd.from_pretrained(one.save_pretrained(tmp_path / "one"))
    assert type(read) is TargetResNet
    assert torch.equal(read(IMAGES), one(IMAGES))
    ensemble = described(OneNet(depth=8, predicts="ensemble", **SHAPE))
    read = OneNet.from_pretrained(ensemble.save_pretrained(tmp_path / "ensemble"))
    assert torch.equal(read(IMAGES), ensemble(IMAGES))


@torch.no_grad()
def test_no_file_of_first_weights_is_named_or_read(tmp_path):
    phase = dict(exits=2, scales=2, channels=4, growth=2, exit_channels=6, **SHAPE)
    trainer = Trainer(**quiet(tmp_path) | {"max_epochs": 1, "limit_train_batches": 1})
    with torch.enable_grad():
        trainer.fit(MSDNet(**phase), TinyData(batch_size=20))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    model = described(IMTA(trained=str(tmp_path / "first.ckpt"), **phase))
    saved = model.save_pretrained(tmp_path / "it")
    (tmp_path / "first.ckpt").unlink()
    assert "first.ckpt" not in (saved / "config.json").read_text()
    assert torch.equal(IMTA.from_pretrained(saved)(IMAGES), model(IMAGES))
    config = json.loads((saved / "config.json").read_text())
    config["arguments"]["trained"] = "another.ckpt"  # of somebody who has changed it
    (saved / "config.json").write_text(json.dumps(config))
    assert torch.equal(IMTA.from_pretrained(saved)(IMAGES), model(IMAGES))


@torch.no_grad()
def test_exits_and_what_they_learned_come_along(tmp_path):
    model = described(make_model(depth=2, inference_routing=(2, 1)))
    again = PrimeNet.from_pretrained(model.save_pretrained(tmp_path / "a", keep_classifiers=True))
    for block, other, choice in zip(model.network.prime_blocks, again.network.prime_blocks, (2, 1), strict=True):
        x = torch.randn(2, *block.in_shape)
        assert torch.equal(block.capsule(choice)(x)[1], other.capsule(0)(x)[1])
    msdnet = described(MSDNet(exits=2, scales=2, channels=4, budget=300000, **SHAPE))
    msdnet.thresholds = [0.4, -float("inf")]
    read = MSDNet.from_pretrained(msdnet.save_pretrained(tmp_path / "b"))
    assert read.thresholds == msdnet.thresholds
    assert torch.equal(read(IMAGES), msdnet(IMAGES))


def test_what_is_read_is_tested_and_not_trained(folder, tmp_path):
    model = PrimeNet.from_pretrained(folder)
    trainer = Trainer(**quiet(tmp_path))
    trainer.test(model, TinyData(batch_size=20), verbose=False)
    assert "test/error" in trainer.callback_metrics
    with pytest.raises(ValueError, match="leaves out what it learned by"):
        Trainer(**quiet(tmp_path)).fit(model, TinyData(batch_size=20))


def test_a_class_above_and_half_precision(tmp_path):
    model = described(OneScale(**SHAPE)).to(torch.bfloat16)
    again = pretrained.Pretrained.from_pretrained(model.save_pretrained(tmp_path))
    assert (type(again), again.dtype) == (OneScale, torch.bfloat16)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"model_class": "os.system"}, "the class os.system, which is not of this package, and so is not imported"),
        ({"model_class": "primenet_lightning.models.prime.PrimeNut"}, "which this version has not"),
        ({"model_class": "primenet_lightning.models.cut.CutNet"}, "is of a CutNet, and no PrimeNet"),
        ({"arguments": {"router": "evil.Router"}}, "router='evil.Router', which is not of the package"),
        ({"arguments": {"depth": 0}}, "does not fit primenet_lightning.models.prime.PrimeNet: depth=0"),
        ({"arguments": {"depht": 2}}, "does not fit primenet_lightning.models.prime.PrimeNet"),
        ({"arguments": dict(SMALL, depth=3)}, "config.json"),
        (
            {"data": DATA | {"class_names": ["a", "b"]}},
            "describes other data than the network's: class_names",
        ),
        ({"data": []}, "has other entries than format 1"),
        ({"dtype": "load"}, "has other entries than format 1"),
        ({"auto_map": "evil.py"}, "has other entries than format 1"),
        ({"format": 2}, "is of format 2, and this version reads up to 1; install a newer"),
        ({"format": "1"}, "has format='1', which is none"),
    ],
)
def test_configs_that_are_not_ours_are_refused(entries, sentence, changed, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=sentence) as caught:
        PrimeNet.from_pretrained(changed(**entries))
    assert "\n" not in str(caught.value)


class Bomb:
    """Code in a pickle."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('this ran')",))


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("config.json", b'{"format": 1,', "is no whole JSON file"),
        ("config.json", b"[1]", "holds a list, and no options"),
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "holds no weights that are safe to load"),
        ("model.safetensors", pickle.dumps(Bomb()), "is no whole safetensors file"),
        ("model.safetensors", 1000, "is no whole safetensors file"),
    ],
)
def test_files_that_are_not_whole_are_refused(file, content, sentence, changed):
    place = changed()
    if isinstance(content, int):
        content = (place / file).read_bytes()[:content]
    (place / file).unlink() if content is None else (place / file).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        PrimeNet.from_pretrained(place)


def test_weights_of_another_network_are_refused(changed, folder):
    saved = json.loads((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"lacks|has, and the network has not"):
        PrimeNet.from_pretrained(changed(choices=[0, 1, 0]))
    with pytest.raises(ValueError, match=r"of shape .* but config.json describes"):
        PrimeNet.from_pretrained(changed(arguments=saved["arguments"] | {"head_channels": 6}))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: make_model(), "does not know its data"),
        (lambda: described(make_model(inference_routing="oracle")), "routes by labels"),
        (
            lambda: described(CutNet(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(128, 3)), **SHAPE)),
            "backbone was given as a module",
        ),
    ],
)
def test_what_nobody_could_build_again_is_not_saved(make, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make().save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_that_are_no_folder(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="runs/a/b does not exist"):
        PrimeNet.from_pretrained("runs/a/b")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        PrimeNet.from_pretrained(tmp_path / "file")
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: name == "safetensors" or None)
    with pytest.raises(ValueError, match=r"huggingface_hub is not installed; install it: pip install .*\[hub\]"):
        PrimeNet.from_pretrained("somebody/mnist")


def test_the_hub_gives_and_takes_folders(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or folder)
    monkeypatch.setattr(hub, "create_repo", lambda name, **options: asked.append((name, options)))
    monkeypatch.setattr(hub, "upload_folder", lambda repo_id, folder_path: repo_id)
    model = PrimeNet.from_pretrained("somebody/mnist")
    assert asked == [("somebody/mnist", {"allow_patterns": ["config.json", "model.safetensors"]})]
    assert described(make_model()).push_to_hub("me/mine", private=True) == "me/mine"
    assert model.network.capsule_names == [["block0.k7"], ["block1.k5"]]
