import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from primenet_lightning.callbacks.figures import new_figure, plain_log_scale, publish, run_folder, style_of

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


def test_run_folder_is_the_first_loggers_else_the_trainers(tmp_path):
    plain = Trainer(logger=False, default_root_dir=tmp_path, accelerator="cpu")
    assert run_folder(plain) == tmp_path
    logger = CSVLogger(tmp_path / "logs", name="a", version=3)
    assert run_folder(Trainer(logger=logger, accelerator="cpu")) == tmp_path / "logs/a/version_3"


def test_publish_saves_the_figure(tmp_path):
    figure = new_figure(2, 1)
    figure.subplots().plot([0, 1])
    path = publish(figure, "some", Trainer(logger=False, accelerator="cpu"), tmp_path)
    assert path == tmp_path / "figures/some.png"
    with Image.open(path) as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}
    assert picture.size == (200, 100)
    assert (0x1F, 0x77, 0xB4) in colours  # the line
