import csv

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from tiny import Plain, TinyData, make_model, same, state
from tiny import make_trainer as make_tiny_trainer
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from primenet_lightning import CutNet, PrimeNet
from primenet_lightning.callbacks import tsne as tsne_module
from primenet_lightning.callbacks.tsne import FeatureTSNE
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.figures.embedding import CLASS_COLOURS

VALIDATION = 5  # batches of six images


class Quick(FeatureTSNE):
    """Places images by two of their features, for tests that are not about t-SNE."""

    def _embed(self, features, before):
        return features[:, :2].clone()


@pytest.fixture
def train(make_trainer, make_batches, loader, monkeypatch):
    """Fit a small network on eight batches; keyword arguments go to the Trainer."""

    def fit(*callbacks, model=None, ckpt_path=None, validation=VALIDATION, draw=True, **options):
        torch.manual_seed(0)
        if not draw:  # saving a picture takes longer than the training
            monkeypatch.setattr(tsne_module, "publish", lambda *args: None)
        trainer = make_trainer(callbacks=callbacks, **options)
        model = model or PrimeNet(num_classes=3)
        held_out = loader(make_batches(validation, seed=1)) if validation else None
        trainer.fit(model, loader(make_batches()), held_out, ckpt_path=ckpt_path)
        return trainer

    return fit


@pytest.fixture
def held_out(make_batches):
    images, labels = zip(*make_batches(VALIDATION, seed=1), strict=True)
    return torch.cat(images), torch.cat(labels)


def logged(folder, name):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def separation_apart(features, labels):
    """By scikit-learn's own classifier, trained anew for each image on all others."""
    features, labels = features.flatten(1).detach().numpy(), labels.numpy()
    said = cross_val_predict(KNeighborsClassifier(5), features, labels, cv=LeaveOneOut())
    return pytest.approx(silhouette_score(features, labels), abs=1e-5), pytest.approx((said == labels).mean())


def features_apart(model, images, layer):
    """Features by name, part by part."""
    model.eval()
    route = model.network.history.majority()
    x, capsules = images, {}
    with torch.no_grad():
        for i, block in enumerate(model.network.prime_blocks):
            x = max_pool2d(x, 2) if i else x
            maps = {name: capsule.features(x) for name, capsule in block.capsules.items()}
            capsules |= {f"/block{i}.{name}": adaptive_avg_pool2d(value, 4) for name, value in maps.items()}
            x = torch.cat([list(maps.values())[route[i]], block.projection(x)], 1)
        found = {"head": {"": model.network.head.features(x)}, "routed": {"": adaptive_avg_pool2d(x, 4)}}
    return (found | {"capsules": capsules})[layer]


@pytest.mark.parametrize(("layer", "depth"), [("head", 1), ("routed", 1), ("capsules", 2)])
def test_scores_are_those_of_features_computed_apart(train, held_out, tmp_path, layer, depth):
    images, labels = held_out
    model = PrimeNet(num_classes=3, depth=depth, image_size=(8, 8))
    train(Quick(every_n_epochs=None, layer=layer), model=model, logger=CSVLogger(tmp_path, "", ""), draw=False)
    names = []
    for name, features in features_apart(model, images, layer).items():
        silhouette, accuracy = separation_apart(features, labels)
        assert logged(tmp_path, f"tsne/silhouette{name}") == [silhouette]
        assert logged(tmp_path, f"tsne/neighbour_accuracy{name}") == [accuracy]
        names.append(name)
    assert len(names) == (6 if layer == "capsules" else 1)
    assert len(logged(tmp_path, "tsne/seconds")) == 1


def test_table_has_positions_classes_and_the_heads_predictions(train, held_out, tmp_path):
    images, labels = held_out
    model, tsne = PrimeNet(num_classes=3), Quick()
    train(tsne, model=model, draw=False)
    with (tmp_path / "figures/tsne.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said = model.eval()(images).argmax(1)
    assert [row["class"] for row in rows] == [str(label) for label in labels.tolist()]
    assert [row["prediction"] for row in rows] == [str(label) for label in said.tolist()]
    assert list(rows[0]) == ["x", "y", "class", "prediction"]
    written = torch.tensor([[float(row["x"]), float(row["y"])] for row in rows])
    assert torch.equal(written, tsne.frames[-1]["positions"]["head"])


def likeness(one, other):
    """Mean correlation of the two coordinates."""
    return np.mean([np.corrcoef(one[:, axis], other[:, axis])[0, 1] for axis in (0, 1)])


class Spy(FeatureTSNE):
    """Remembers what it embedded."""

    features = None

    def _embed(self, features, before):
        self.features = features
        return super()._embed(features, before)


def test_pictures_move_instead_of_jumping(make_trainer, monkeypatch):
    monkeypatch.setattr(tsne_module, "publish", lambda *args: None)
    tsne = Spy(every_n_epochs=1, animation=True)
    make_trainer(callbacks=[tsne], max_epochs=2).fit(PrimeNet(image_size=(8, 8)), DigitsDataModule())
    first, second = (frame["positions"]["head"] for frame in tsne.frames)
    independent = FeatureTSNE()._embed(tsne.features, None)
    assert not torch.equal(first, second)
    assert likeness(first, second) > 0.85
    assert likeness(first, second) > likeness(first, independent) + 0.1


def test_unchanged_features_stand_still():
    features, tsne = torch.randn(40, 5), FeatureTSNE()
    first = tsne._embed(features, None)
    assert torch.equal(first, tsne._embed(features, None))
    assert likeness(first, tsne._embed(features, first)) > 0.99


@pytest.mark.parametrize("features", [torch.ones(12, 4), torch.arange(12.0)[:, None]])
def test_dead_and_single_features_get_positions(features):
    assert FeatureTSNE()._embed(features, None).isfinite().all()


class Save(Callback):
    """Saves a checkpoint at the end of the third epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            trainer.save_checkpoint(self.path, weights_only=False)


def test_resumed_pictures_are_those_of_one_run(train, tmp_path):
    options = dict(every_n_epochs=2, animation=True)
    whole = FeatureTSNE(folder=tmp_path / "whole", **options)
    train(whole, Save(tmp_path / "middle.ckpt"), max_epochs=5)
    kept = torch.load(tmp_path / "middle.ckpt", weights_only=True)["callbacks"]["FeatureTSNE"]
    assert [frame["epoch"] for frame in kept["frames"]] == [2]
    resumed = FeatureTSNE(folder=tmp_path / "resumed", **options)
    train(resumed, ckpt_path=tmp_path / "middle.ckpt", max_epochs=5)
    assert [frame["epoch"] for frame in whole.frames] == [frame["epoch"] for frame in resumed.frames] == [2, 4, 5]
    for one, other in zip(whole.frames, resumed.frames, strict=True):
        assert torch.equal(one["positions"]["head"], other["positions"]["head"])
        assert one["scores"] == other["scores"]
    for name in ("tsne.png", "tsne.gif", "tsne.csv"):
        assert (tmp_path / "whole/figures" / name).read_bytes() == (tmp_path / "resumed/figures" / name).read_bytes()


def colours_of(picture):
    return {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}


def rgb(colour):
    return tuple(round(255 * part) for part in to_rgb(colour))


def test_picture_has_every_class_in_its_colour(train, tmp_path):
    train(Quick())
    with Image.open(tmp_path / "figures/tsne.png") as picture:
        assert picture.width == 600
        colours = colours_of(picture)
    assert {rgb(colour) for colour in CLASS_COLOURS[:3]} <= colours
    assert rgb(CLASS_COLOURS[3]) not in colours


def test_animation_has_all_frames_within_one_frame_of_axes(train, tmp_path):
    tsne = Quick(every_n_epochs=1, animation=True)
    train(tsne, max_epochs=3)
    with Image.open(tmp_path / "figures/tsne.gif") as film:
        frames = []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("L"), dtype=int))
    assert len(frames) == len(tsne.frames) == 3
    assert len({frame.shape for frame in frames}) == 1
    # where the axes' frame is drawn, dark over most of the height, is the same all along
    edges = [((frame < 60).mean(0) > 0.7).nonzero()[0].tolist() for frame in frames]
    assert len(edges[0]) >= 2
    assert edges[0] == edges[1] == edges[2]
    assert (abs(frames[0] - frames[2]) > 60).sum() > 100  # points have moved


def test_only_the_latest_embedding_is_kept_without_animation(train, tmp_path):
    tsne = Quick(every_n_epochs=1)
    train(tsne, max_epochs=3, draw=False)
    assert [frame["epoch"] for frame in tsne.frames] == [3]
    assert not (tmp_path / "figures/tsne.gif").exists()


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_any_precision(train, precision):
    tsne = FeatureTSNE(layer="capsules")
    train(tsne, precision=precision, draw=False, limit_train_batches=2)
    positions = tsne.frames[-1]["positions"]
    assert len(positions) == 3
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in positions.values())


class Modes(Callback):
    """Sets, then remembers, the mode of every part and the network's state."""

    def __init__(self, prepare=False):
        self.prepare, self.seen = prepare, []

    def on_fit_end(self, trainer, pl_module):
        if self.prepare:
            pl_module.network.train()
            pl_module.network.blocks[0].capsules["k3"].eval()
        self.seen = [part.training for part in pl_module.modules()], state(pl_module)


@pytest.mark.parametrize("layer", ["head", "routed", "capsules"])
def test_modes_weights_and_hooks_are_left_as_they_were(train, layer):
    before, after, model = Modes(prepare=True), Modes(), PrimeNet(num_classes=3)
    tsne = Quick(every_n_epochs=None, layer=layer)
    train(before, tsne, after, model=model, draw=False)
    assert len(tsne.frames) == 1
    assert set(before.seen[0]) == {True, False}
    assert before.seen[0] == after.seen[0]
    assert same(before.seen[1], after.seen[1])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.network.modules())


class Counting(torch.utils.data.Dataset):
    """Batches that know how often they were asked for."""

    def __init__(self, batches):
        self.batches, self.asked = batches, 0

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        self.asked += 1
        return self.batches[index]


def test_validation_data_are_read_once_an_epoch_and_sampled_once(make_trainer, make_batches, loader):
    validation, tsne = Counting(make_batches(5, seed=1)), Quick(every_n_epochs=1)
    trainer = make_trainer(callbacks=[tsne], max_epochs=3, num_sanity_val_steps=1)
    trainer.fit(PrimeNet(num_classes=3), loader(make_batches()), loader(validation))
    assert validation.asked == 1 + 3 * 5
    assert len(tsne.frames[-1]["positions"]["head"]) == 30


def test_sample_is_balanced(train):
    tsne = Quick(samples=12)
    train(tsne, validation=20, draw=False)
    assert tsne._sample.labels.bincount().tolist() == [4, 4, 4]


def test_validations_within_an_epoch_do_not_multiply_pictures(train):
    tsne = Quick(every_n_epochs=1, animation=True)
    train(tsne, max_epochs=2, val_check_interval=0.25, draw=False)
    assert [frame["epoch"] for frame in tsne.frames] == [1, 2]


@pytest.mark.parametrize(
    ("layer", "scales"), [("head", (3,)), ("capsules", (3,)), ("capsules", (1, 3, 5, 7, 9, 11, 13, 15))]
)
def test_any_number_of_capsules(train, layer, scales):
    tsne = Quick(layer=layer)
    train(tsne, model=PrimeNet(num_classes=3, kernel_sizes=scales), draw=False, limit_train_batches=2)
    expected = [f"block0.k{scale}" for scale in scales] if layer == "capsules" else ["head"]
    assert list(tsne.frames[-1]["positions"]) == expected


class OddHead(Plain):
    """A head that ends in no linear layer."""

    def configure_head(self, in_shape):
        return nn.Sequential(nn.Conv2d(in_shape[0], self.num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_subclass_with_capsules_and_head_of_its_own(train):
    tsne, model = Quick(), make_model(Plain, in_channels=1)
    train(tsne, model=model, draw=False)
    assert tsne.frames[-1]["positions"]["head"].shape == (30, 2)
    with pytest.raises(ValueError, match=r"layer='head'.*use 'routed'"):
        train(Quick(), model=make_model(OddHead, in_channels=1))
    routed = Quick(layer="routed")
    train(routed, model=make_model(OddHead, in_channels=1), draw=False)
    assert routed.frames[-1]["positions"]["routed"].shape == (30, 2)


@pytest.mark.parametrize("options", [dict(validation=0), dict(fast_dev_run=True)])
def test_nothing_is_written_without_validation_or_in_a_trial(train, tmp_path, options):
    tsne = Quick(animation=True)
    train(tsne, **options)
    assert tsne.frames == []
    assert not (tmp_path / "figures").exists()


def test_few_images_are_refused_once(train, tmp_path):
    with pytest.warns(UserWarning, match="has found 6 validation images") as caught:
        train(Quick(every_n_epochs=1), max_epochs=3, validation=1)
    assert len([warning for warning in caught if "FeatureTSNE" in str(warning.message)]) == 1
    assert not (tmp_path / "figures").exists()


def test_other_modules_are_left_alone(silent, tmp_path):
    from lightning.pytorch import Trainer

    with pytest.warns(UserWarning, match="BoringModel is no PrimeNet"):
        Trainer(**silent, callbacks=[Quick()], limit_train_batches=2, limit_val_batches=2).fit(BoringModel())
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("local", [True, False])
def test_any_local_learner_is_drawn_by_what_its_own_last_layer_sees(train, tmp_path, held_out, local):
    """Not by what a local classifier sees, whose dense layer comes after it."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))
    model = CutNet(layers, 1, (8, 8), 3, at=["2"], recipe="dgl", local=local)
    callback = FeatureTSNE()
    train(callback, model=model)
    images, labels = held_out
    with torch.no_grad():
        silhouette, neighbours = separation_apart(layers[:5].eval()(images), labels)
    (scores,) = callback.frames[-1]["scores"].values()
    assert (scores["silhouette"], scores["neighbour_accuracy"]) == (silhouette, neighbours)
    assert (tmp_path / "figures/tsne.png").exists()


def test_other_layers_are_of_a_primenet_alone(train):
    model = CutNet("resnet20", 1, (8, 8), 3, backbone_options={"width": 4})
    with pytest.warns(UserWarning, match="FeatureTSNE has nothing to show: CutNet is no PrimeNet$"):
        train(FeatureTSNE(layer="routed"), model=model)


def test_features_that_are_not_finite_do_not_stop_the_fit(train):
    class Break(Callback):
        def on_fit_end(self, trainer, pl_module):
            pl_module.network.head.features[2].bias.data.fill_(float("inf"))

    tsne = FeatureTSNE(every_n_epochs=None)
    with pytest.warns(UserWarning, match="leaves out epoch 1"):
        train(Break(), tsne)
    assert tsne.frames == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layer="hed"), "layer='hed' is unknown"),
        (dict(samples=5), "samples=5 must be at least 10 images"),
        (dict(neighbours=0), "neighbours=0 must be at least 1"),
        (dict(perplexity=0.5), "perplexity=0.5 must be at least 1"),
        (dict(every_n_epochs=0), "every_n_epochs=0 must be at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureTSNE(**options)


def test_more_classes_than_samples(train):
    with pytest.raises(ValueError, match="samples=10 is too small for 12 classes"):
        train(Quick(samples=10), model=PrimeNet(num_classes=12))


def embed_on_ranks(folder, drawn):
    tsne = FeatureTSNE(every_n_epochs=1, layer="capsules", animation=True)
    options = dict(devices=2, strategy="ddp", max_epochs=2, num_sanity_val_steps=1)
    trainer = make_tiny_trainer(folder, [tsne] if drawn else [], **options)
    model = make_model()
    trainer.fit(model, TinyData(batch_size=20, validation_fraction=0.37))
    return state(model), [len(frame["positions"]["block0.k3"]) for frame in tsne.frames]


def test_two_processes_draw_once_and_train_as_without(ranks, tmp_path):
    first, second = ranks(embed_on_ranks, tmp_path / "drawn", True)
    without, _ = ranks(embed_on_ranks, tmp_path / "plain", False)
    assert len(first[1]) == 2
    assert min(first[1]) >= 10
    assert second[1] == []
    assert same(first[0], second[0])
    assert same(first[0], without[0])
    assert sorted(path.name for path in (tmp_path / "drawn/figures").iterdir()) == ["tsne.csv", "tsne.gif", "tsne.png"]
