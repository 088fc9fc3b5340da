"""The figures: the same bytes each time, what is written in them, and nothing where a part is missing."""

import io

import pytest
from made_up import SETTINGS, arrays, extras, made_up, parts
from matplotlib.colors import to_hex
from PIL import Image

from primenet_lightning.reproduction._results import Results
from primenet_lightning.reproduction.report import _pictures as pictures
from primenet_lightning.reproduction.report._pictures import draw


@pytest.fixture
def drawn(monkeypatch):
    """Calls a drawing function and gives its figure."""

    def call(draws, results):
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "_png", lambda figure: figure)
            return draws(results)

    return call


def test_the_same_bytes_again_and_no_time_of_writing():
    data = pictures.loss_curves(made_up())  # of all four see the test of the whole report
    assert data == pictures.loss_curves(made_up())
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    assert picture.info["Software"] == "primenet-lightning"
    assert not any("time" in key.lower() or "date" in key.lower() for key in picture.info)


def test_figure_4_frames_the_route_and_marks_the_least_loss(drawn):
    figure = drawn(pictures.feature_maps, made_up())
    kept = arrays()["prime"]
    rows = [figure.axes[start : start + 5] for start in (0, 5, 10)]
    for row, axes in enumerate(rows):
        shown = [(place.get_frame_on(), place.get_xlabel()) for place in axes[1:4]]
        assert [framed for framed, _ in shown] == [k == kept["routed"][row] for k in range(3)]
        assert [label.startswith("routed") for _, label in shown] == [k == kept["routed"][row] for k in range(3)]
        assert ["by label" in label for _, label in shown] == [k == kept["least_loss"][row] for k in range(3)]
        for k, name in enumerate(("k3", "k5", "k7")):
            title = axes[1 + k].get_title()
            assert title.startswith(f"block0.{name}: {kept['losses'][row, k]:.3g} nats")
            assert title.endswith("right" if kept["verdicts"][row, k] == kept["labels"][row] else "wrong")


def test_figure_4_takes_images_of_three_channels(drawn):
    kept = arrays(colour=True)
    (shown,) = drawn(pictures.feature_maps, Results(SETTINGS, parts(1), kept)).axes[0].images
    assert shown.get_array().shape == (28, 28, 3)


def test_figure_5_has_every_curve_on_a_logarithmic_scale(drawn):
    (axes,) = drawn(pictures.loss_curves, made_up()).axes
    assert axes.get_yscale() == "log"
    losses = parts(1)["prime"][0].extra["losses"]
    for line in axes.lines:
        assert line.get_ydata().tolist() == losses[line.get_label().removeprefix("block0.")]
        assert line.get_xdata().tolist() == losses["step"]
    assert [line.get_label() for line in axes.lines] == ["block0.k3", "block0.k5", "block0.k7", "head", "total"]
    assert len({to_hex(line.get_color()) for line in axes.lines}) == 5


def test_figure_6_says_scores_and_images_of_both(drawn):
    figure = drawn(pictures.embeddings, made_up(change={"resnet50": {"images": 2_000}}))
    ours, theirs = (axes.get_title() for axes in figure.axes)
    assert all(said in ours for said in ("PrimeNet", "54,000", "silhouette 0.31", "97.3 %"))
    assert all(said in theirs for said in ("ResNet-50", "2,000", "silhouette 0.18", "95.5 %"))
    points = sum(len(collection.get_offsets()) for collection in figure.axes[0].collections)
    assert points == len(arrays()["prime"]["embedding"])


def test_figure_6_has_no_negative_zero(drawn):
    extra = extras(0) | dict(separation=dict(silhouette=-0.001, neighbour_accuracy=0.9))
    title = drawn(pictures.embeddings, made_up(change={"prime": {"extra": extra}})).axes[0].get_title()
    assert "silhouette 0.00" in title


def test_figure_7_says_where_each_starts(drawn):
    figure = drawn(pictures.phase_2_curves, made_up())
    title = " ".join(figure.get_suptitle().split())
    assert "mean of 3 seeds" in title
    assert "phase 2 starts on features that phase 1 trained for 30 epochs, the nets of one scale start" in title


def test_figure_7_keeps_to_common_seeds(drawn):
    found = parts()
    del found["one_scale_5"][1:]
    figure = drawn(pictures.phase_2_curves, Results(SETTINGS, found, arrays()))
    assert "(one seed)" in " ".join(figure.get_suptitle().split())
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]


def test_figure_7_has_the_means_of_the_seeds(drawn):
    results = made_up()
    results.of("probe")[0].curves["train_loss"][:] = [9.0] * 15
    accuracy, loss = drawn(pictures.phase_2_curves, results).axes
    named = {line.get_label(): line for line in loss.lines if not line.get_label().startswith("_")}
    assert list(named) == ["PrimeNet, phase 2", "layer 3x3", "layer 5x5", "layer 7x7"]
    curves = [result.curves["train_loss"] for result in results.of("probe")]
    expected = [sum(values) / 3 for values in zip(*curves, strict=True)]
    assert named["PrimeNet, phase 2"].get_ydata() == pytest.approx(expected)
    assert len(loss.lines) == len(accuracy.lines) == 4 * (1 + 3)


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ("prime", {"figure7"}),
        ("resnet50", {"figure4", "figure5", "figure7"}),
        ("probe", {"figure4", "figure5", "figure6"}),
        ("one_scale_5", {"figure4", "figure5", "figure6"}),
    ],
)
def test_a_missing_part_leaves_its_figure_out(missing, left, monkeypatch):
    monkeypatch.setattr(pictures, "_png", lambda figure: b"drawn")
    assert draw(made_up(without=(missing,), seeds=1)).keys() == left
