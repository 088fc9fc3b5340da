from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from matplotlib.colors import to_rgb
from PIL import Image
from tiny import Plain, TinyData, make_model
from tiny import make_trainer as make_tiny_trainer
from torch.nn import functional as F

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import feature_maps
from primenet_lightning.callbacks.feature_maps import FeatureMaps
from primenet_lightning.figures.style import COLOURS


@pytest.fixture
def train(make_trainer, make_batches, loader):
    """Fit a small network on eight batches; keyword arguments go to the Trainer."""

    def fit(*callbacks, model=None, validation=3, ckpt_path=None, **options):
        torch.manual_seed(0)
        model = model or PrimeNet(num_classes=3)
        held_out = loader(make_batches(validation, seed=1)) if validation else None
        make_trainer(callbacks=callbacks, **options).fit(model, loader(make_batches()), held_out, ckpt_path=ckpt_path)
        return model

    return fit


@pytest.fixture
def figures(monkeypatch):
    """The figures that were published."""
    seen, publish = [], feature_maps.publish

    def keep(figure, name, trainer, folder, figure_format="png"):
        seen.append(figure)
        if len(seen) == 1:  # saving takes longer than the training
            publish(figure, name, trainer, folder, figure_format)

    monkeypatch.setattr(feature_maps, "publish", keep)
    return seen


@pytest.fixture
def first_of_each_class(make_batches):
    """The images that are to be shown, found by a plain search."""
    images, labels = zip(*make_batches(3, seed=1), strict=True)
    images, labels = torch.cat(images), torch.cat(labels)
    places = [labels.tolist().index(label) for label in range(3)]
    return images[places], labels[places]


def rows_of(figure, columns):
    """Axes by row."""
    return [figure.axes[start : start + columns] for start in range(0, len(figure.axes), columns)]


def framed(row):
    return [place for place, axes in enumerate(row) if axes.get_frame_on()]


def test_losses_verdicts_and_maps_are_those_computed_apart(train, figures, first_of_each_class):
    images, labels = first_of_each_class
    model = train(FeatureMaps(images=3, channels=2)).eval()
    (figure,) = figures
    rows = rows_of(figure, 5)
    assert len(rows) == 3
    with torch.no_grad():
        answers = model(images).argmax(1).tolist()
    for i, row in enumerate(rows):
        assert row[0].get_title() == f"image of class\n{labels[i]}"
        pixels = np.asarray(row[0].images[0].get_array())
        assert np.corrcoef(pixels.flatten(), images[i].flatten())[0, 1] > 0.999
        for axes, (name, capsule) in zip(row[1:4], model.network.blocks[0].capsules.items(), strict=True):
            with torch.no_grad():
                maps, logits = capsule(images[i : i + 1])
            loss, said = F.cross_entropy(logits, labels[i : i + 1]).item(), int(logits.argmax())
            verdict = "right" if said == labels[i] else "wrong"
            assert axes.get_title() == f"block0.{name}: {loss:.2f} nats\n{said}, {verdict}"
            strengths = maps[0].abs().mean((1, 2))
            strongest = sorted(range(len(strengths)), key=lambda channel: -strengths[channel].item())[:2]
            drawn = np.asarray(axes.images[0].get_array())
            for place, channel in enumerate(strongest):
                part = drawn[:, place * 9 : place * 9 + 8]  # eight pixels and a gap of one
                np.testing.assert_allclose(part, maps[0, channel].numpy(), rtol=1e-4, atol=1e-6)
        answer = "right" if answers[i] == labels[i] else "wrong"
        assert row[4].texts[0].get_text() == f"head:\n{answers[i]}\n{answer}"


@pytest.mark.parametrize("routing", ["majority", 0])
def test_the_routed_capsule_is_framed(train, figures, tmp_path, routing):
    model = train(FeatureMaps(images=2), model=PrimeNet(num_classes=3, inference_routing=routing))
    route = model.network.inference_route()[0]
    for row in rows_of(figures[0], 5):
        assert framed(row) == [1 + route]
        assert [axes.get_xlabel() for axes in row] == ["routed" if place == 1 + route else "" for place in range(5)]
    with Image.open(tmp_path / "figures/feature_maps.png") as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}
    present = [tuple(round(255 * part) for part in to_rgb(COLOURS[place])) in colours for place in range(3)]
    assert present == [place == route for place in range(3)]


def test_where_each_image_takes_its_own_route_each_row_has_its_own_frame(train, figures, first_of_each_class):
    images, _ = first_of_each_class
    model = train(FeatureMaps(images=3), model=PrimeNet(num_classes=3, inference_routing="min_entropy")).eval()
    rows = rows_of(figures[0], 5)
    for i, row in enumerate(rows):
        with torch.no_grad():
            scores = [capsule(images[i : i + 1])[1] for capsule in model.network.blocks[0].capsules.values()]
        entropies = [torch.distributions.Categorical(logits=logits).entropy().item() for logits in scores]
        assert framed(row) == [1 + entropies.index(min(entropies))]


def test_a_later_block_sees_what_the_route_gives_it(train, figures, first_of_each_class):
    images, labels = first_of_each_class
    model = train(FeatureMaps(images=3, block=1), model=PrimeNet(num_classes=3, depth=2)).eval()
    first, second = model.network.prime_blocks
    route = model.network.history.majority()
    with torch.no_grad():
        x = first.through(images, route[0])
        routed = first.capsule(route[0]).features(images)
        torch.testing.assert_close(x, F.max_pool2d(torch.cat([routed, first.projection(images)], 1), 2))
        losses = F.cross_entropy(second.capsules["k5"](x)[1], labels, reduction="none")
    for row, loss in zip(rows_of(figures[0], 5), losses.tolist(), strict=True):
        assert row[2].get_title().startswith(f"block1.k5: {loss:.2f} nats")
        assert framed(row) == [1 + route[1]]


@pytest.mark.parametrize(("scales", "width"), [((3,), 600), ((1, 3, 5, 7, 9, 11, 13, 15), 600)])
def test_any_number_of_capsules_stays_legible(train, figures, tmp_path, scales, width):
    train(FeatureMaps(), model=PrimeNet(num_classes=3, kernel_sizes=scales))
    with Image.open(tmp_path / "figures/feature_maps.png") as picture:
        assert picture.width == width
    figure, texts = figures[0], []
    for axes in figure.axes:
        texts += [axes.title, *axes.texts]
    assert min(text.get_fontsize() for text in texts) >= 7
    for row in rows_of(figure, len(scales) + 2):  # no title runs into the one beside it
        boxes = [axes.title.get_window_extent() for axes in row[:-1]]
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
        shown = np.asarray(row[1].images[0].get_array()).shape
        assert shown == ((8, 8) if len(scales) == 8 else (17, 17))


def test_subclass_with_capsules_and_head_of_its_own(train, figures):
    train(FeatureMaps(images=1), model=make_model(Plain, in_channels=1))
    assert len(figures) == 1


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_any_precision(train, figures, precision):
    train(FeatureMaps(images=1), precision=precision, limit_train_batches=2)
    assert "nats" in figures[0].axes[1].get_title()


def test_drawn_every_so_many_epochs_and_at_the_end(train, figures):
    train(FeatureMaps(images=1, every_n_epochs=2), max_epochs=5, num_sanity_val_steps=1)
    assert [figure.get_suptitle().partition(":")[0] for figure in figures] == [
        f"Feature maps after epoch {epoch}" for epoch in (2, 4, 5)
    ]


def titles(figure):
    return [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]


def test_resumed_run_keeps_the_rhythm(train, figures, tmp_path):
    from lightning.pytorch import Callback

    class Save(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt", weights_only=False)

    train(FeatureMaps(images=1, every_n_epochs=2), Save(), max_epochs=4)
    whole = titles(figures[-1])
    assert torch.load(tmp_path / "middle.ckpt", weights_only=True)["callbacks"]["FeatureMaps"] == {"looked_at": [2, 15]}
    figures.clear()
    train(FeatureMaps(images=1, every_n_epochs=2), max_epochs=4, ckpt_path=tmp_path / "middle.ckpt")
    assert len(figures) == 1
    assert titles(figures[0]) == whole


@pytest.mark.parametrize("options", [dict(validation=0), dict(fast_dev_run=True)])
def test_nothing_is_written_without_validation_or_in_a_trial(train, tmp_path, options):
    train(FeatureMaps(), **options)
    assert not (tmp_path / "figures").exists()


def test_other_modules_are_left_alone(silent, tmp_path):
    from lightning.pytorch import Trainer

    with pytest.warns(UserWarning, match="FeatureMaps has nothing to show: BoringModel is no PrimeNet"):
        Trainer(**silent, callbacks=[FeatureMaps()], limit_train_batches=2, limit_val_batches=2).fit(BoringModel())
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("options", [dict(images=0), dict(channels=0), dict(block=-1), dict(every_n_epochs=0)])
def test_bad_arguments(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}={options[name]} "):
        FeatureMaps(**options)


def test_a_block_that_is_not_there(train):
    with pytest.raises(ValueError, match="block=1 is not there: the model has 1"):
        train(FeatureMaps(block=1))


def draw_on_ranks(folder):
    maps = FeatureMaps(images=1)
    trainer = make_tiny_trainer(folder, [maps], devices=2, strategy="ddp", max_epochs=2)
    trainer.fit(make_model(), TinyData(batch_size=20))
    return len(maps._sample)


def test_two_processes_draw_once(ranks, tmp_path):
    first, second = ranks(draw_on_ranks, tmp_path)
    assert first > 0
    assert second == 0
    assert (tmp_path / "figures/feature_maps.png").is_file()


def test_all_blocks_are_shown_below_each_other(train, figures):
    train(FeatureMaps(images=2), model=PrimeNet(num_classes=3, depth=2))
    titles = [axes.get_title() for axes in figures[0].axes]
    starts = [title.partition(":")[0].partition("\n")[0] for title in titles]
    first = ["image of class", "block0.k3", "block0.k5", "block0.k7", "block1.k3", "block1.k5", "block1.k7", ""]
    assert starts == first * 2
    assert sum("head" in text.get_text() for axes in figures[0].axes for text in axes.texts) == 2


def test_blocks_of_different_capsules_have_a_row_each(train, figures):
    class Narrowing(PrimeNet):
        def configure_capsules(self, index, in_shape):
            capsules = super().configure_capsules(index, in_shape)
            return capsules if index == 0 else {"k3": capsules["k3"]}

    train(FeatureMaps(images=1), model=Narrowing(num_classes=3, depth=2))
    starts = [axes.get_title().partition(":")[0] for axes in figures[0].axes]
    assert starts[1:] == ["block0.k3", "block0.k5", "block0.k7", "block1.k3", ""]


@pytest.mark.parametrize("router", ["concatenate", "mean"])
def test_where_all_maps_go_on_none_is_called_routed(train, figures, router):
    train(FeatureMaps(images=1), model=PrimeNet(num_classes=3, router=router))
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["", "goes on", "goes on", "goes on", ""]
