import pytest
import torch

from primenet_lightning.figures.embedding import CLASS_COLOURS, CLASS_MARKERS, draw_embedding


@pytest.mark.parametrize("layer", ["head", "capsules"])
@pytest.mark.parametrize(("classes", "scales"), [(12, 1), (25, 1), (25, 8)])
def test_many_classes_and_capsules_have_their_place(layer, classes, scales):
    names = [f"block0.k{2 * scale + 1}" for scale in range(scales)] if layer == "capsules" else ["head"]
    points, labels = torch.randn(100, 2), torch.arange(100) % classes
    scores = {name: dict(silhouette=0.5, neighbour_accuracy=0.25) for name in names}
    frame = dict(epoch=3, positions=dict.fromkeys(names, points), scores=scores)
    figure = draw_embedding(frame, labels, [f"c{label}" for label in range(classes)], layer)
    bar = classes > 20
    assert len(figure.axes) == len(names) + bar
    assert len(figure.legends) == (not bar)
    texts = figure.get_suptitle() + " ".join(axes.get_title() for axes in figure.axes)
    assert "after epoch 3" in texts
    assert texts.count("silhouette 0.50") == texts.count("25.0 % right") == len(names)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    assert len(figure.axes[0].get_xticks()) == 0
    if not bar:
        looks = {(str(c.get_facecolor()), str(c.get_paths()[0].vertices)) for c in figure.axes[0].collections}
        assert len(looks) == classes


AWKWARD = {
    "underscores": ["_background_noise_", "_unknown_", "__", "yes"],
    "mathematics": ["$100", "50 $ to 60 $", "$x^2$", "$\\frac$", "a\\b_c^d", "{}", "100%"],
    "other scripts": [
        "\u732b",
        "\u0441\u043e\u0431\u0430\u043a\u0430",
        "\u0645\u0627\u0621",
        "caf\u00e9",
        "\U0001f600",
    ],
    "numbers": [0, 1.5, -3],
}


@pytest.mark.filterwarnings("ignore:Glyph.*missing")
@pytest.mark.parametrize("layer", ["head", "capsules"])
@pytest.mark.parametrize("kind", AWKWARD)
def test_names_of_classes_are_shown_as_they_are(kind, layer, tmp_path):
    classes = AWKWARD[kind]
    names = ["block0._k3", "block0.$k"] if layer == "capsules" else ["head"]
    points, labels = torch.randn(40, 2), torch.arange(40) % len(classes)
    scores = {name: {"neighbour_accuracy": 1.0} for name in names}
    frame = dict(epoch=1, positions=dict.fromkeys(names, points), scores=scores)
    figure = draw_embedding(frame, labels, classes, layer)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [str(name) for name in classes]
    for suffix in ("png", "svg"):
        figure.savefig(tmp_path / f"some.{suffix}")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines", "two lines"),
        ("", "''"),
        (" \t", "'  '"),
        ("a\u200bb", "a\\u200bb"),
        ("x" * 60 + "1", "x" * 12 + "\u2026" + "x" * 10 + "1"),
    ],
)
def test_names_that_cannot_be_read_are_made_readable(name, shown):
    frame = dict(epoch=1, positions={"head": torch.randn(9, 2)}, scores={"head": {"neighbour_accuracy": 1.0}})
    figure = draw_embedding(frame, torch.arange(9) % 2, [name, "other"], "head")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [shown, "other"]
    figure.draw_without_rendering()
    picture = figure.axes[0].get_window_extent()
    assert picture.width > 250  # of 600: the names leave it room


SRGB_TO_XYZ = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
SEEN_BY = {
    "most readers": torch.eye(3),
    "protanopes": torch.tensor([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopes": torch.tensor([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritanopes": torch.tensor([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


def lab(colours, seen_by):
    """CIELAB, in which differences are those that readers see, about."""
    rgb = torch.tensor([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ seen_by.T).clamp(0, 1) @ SRGB_TO_XYZ.T / torch.tensor([0.9505, 1.0, 1.0888])
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], dim=1)


@pytest.mark.parametrize("reader", SEEN_BY)
def test_ten_classes_are_told_apart(reader):
    assert len(set(CLASS_COLOURS)) == len(set(CLASS_MARKERS)) == 10
    least = 25 if reader == "most readers" else 14
    distances = torch.pdist(lab(CLASS_COLOURS, SEEN_BY[reader]))
    assert distances.min() > least
