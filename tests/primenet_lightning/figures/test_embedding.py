import pytest
import torch

from primenet_lightning.figures.embedding import draw_embedding


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
