import pytest

from primenet_lightning.figures.style import new_figure, plain_log_scale, style_of

NAMES = [f"block{block}.k{scale}" for block in range(3) for scale in (3, 5, 7)]


def test_each_learner_looks_like_no_other_even_without_colours():
    looks = [style_of(name, NAMES) for name in [*NAMES, "head", "total"]]
    assert len({(look["marker"], str(look["linestyle"])) for look in looks}) == len(looks)


def test_a_capsule_keeps_its_colour_and_marker_in_every_block():
    first, last = style_of("block0.k5", NAMES), style_of("block2.k5", NAMES)
    assert (first["color"], first["marker"]) == (last["color"], last["marker"])
    assert first["linestyle"] != last["linestyle"]


@pytest.mark.parametrize(
    ("values", "written"),
    [([0.04, 3.0], ["0.05", "0.1", "0.2", "0.5", "1", "2"]), ([0.3, 0.9], ["0.5"])],
)
def test_ticks_are_plain_numbers(values, written):
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([0, 1], values)
    plain_log_scale(axes)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    shown = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert set(written) <= set(shown)
    assert not any("mathdefault" in text or "^" in text for text in shown)


def test_stages_of_one_learner_each_differ_in_colour_too():
    names = ["stem", "layer1", "layer2", "head", "total"]
    looks = [style_of(name, names) for name in names]
    assert len({str(look["color"]) for look in looks}) == len({look["marker"] for look in looks}) == len(names)
