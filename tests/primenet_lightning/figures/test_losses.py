import pytest

from primenet_lightning.figures.losses import draw_error_rates, draw_losses


def curves_of(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def test_errors_near_none_are_told_apart_on_a_logarithmic_axis():
    points = [(10, {"block0.k3": 0.5, "head": 0.99}), (20, {"block0.k3": 0.9, "head": 0.999})]
    figure = draw_error_rates(points, points[1:])
    training, validation = figure.axes
    assert training.get_ylabel() == "error (%)"
    assert curves_of(training)["block0.k3"] == pytest.approx([50, 10])
    assert curves_of(training)["head"] == pytest.approx([1, 0.1])
    assert curves_of(validation)["head"] == pytest.approx([0.1])
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}


def test_no_error_at_all_is_drawn_too():
    figure = draw_error_rates([], [(10, {"head": 0.99}), (20, {"head": 1.0})])
    (axes,) = figure.axes
    figure.draw_without_rendering()
    heights = axes.transData.transform([(10, 0.0), (10, 1.0)])[:, 1]
    bottom, top = axes.get_window_extent().y0, axes.get_window_extent().y1
    assert bottom <= heights[0] < heights[1] <= top
    assert "0" in [label.get_text() for label in axes.get_yticklabels()]


def test_learners_of_any_name_are_in_the_legend():
    names = ["_stem", "block0._k", "block0.$3$", "head", "total"]
    figure = draw_losses([(1, dict.fromkeys(names, 1.0)), (2, dict.fromkeys(names, 0.5))], [], "nats")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    figure.draw_without_rendering()
