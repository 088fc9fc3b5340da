import io

import pytest
import rich
from lightning.pytorch import Callback

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import LossProgressBar


class Watch(Callback):
    """What the bar shows at the end of the epoch beside what the last step returned."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.last = outputs["losses"]

    def on_train_epoch_end(self, trainer, pl_module):
        self.shown = trainer.progress_bar_callback.get_metrics(trainer, pl_module)
        self.text = trainer.progress_bar_callback._metric_component._metrics


@pytest.mark.parametrize("depth", [1, 2])
def test_bar_shows_the_latest_losses_and_the_validation_error(make_trainer, make_batches, loader, depth):
    watch = Watch()
    trainer = make_trainer(enable_progress_bar=True, callbacks=[LossProgressBar(), watch])
    trainer.fit(
        PrimeNet(num_classes=3, image_size=(16, 16), depth=depth),
        loader(make_batches(4, shape=(1, 16, 16))),
        loader(make_batches(1, shape=(1, 16, 16), seed=1)),
    )
    error = watch.shown.pop("val/error")
    assert error == pytest.approx(trainer.callback_metrics["val/error"].item())
    if depth == 1:
        expected = {name.removeprefix("block0."): value for name, value in watch.last.items()}
        assert list(watch.shown) == ["k3", "k5", "k7", "head", "total"]
    else:
        expected = watch.last
        assert "block1.k3" in watch.shown
    assert watch.shown == expected
    assert watch.text["head"] == watch.last["head"]  # it reached the bar itself


def test_bar_moves_by_the_clock(make_trainer, make_batches, loader, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.RichProgressBar.on_train_batch_end",
        lambda self, trainer, module, outputs, batch, batch_idx: drawn.append(batch_idx),
    )
    clock = iter([0.0, 0.1, 0.3, 0.35, 0.6, 0.7, 0.71, 0.72])
    monkeypatch.setattr("primenet_lightning.callbacks.progress.time.monotonic", lambda: next(clock))
    bar = LossProgressBar(updates_per_second=4)
    monkeypatch.setattr(LossProgressBar, "total_train_batches", 8)
    for batch_idx in range(8):
        bar.on_train_batch_end(None, None, {"losses": {}}, None, batch_idx)
    assert drawn == [0, 2, 4, 7]  # a quarter of a second apart, and the last


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_bar_is_never_higher_than_two_lines_and_leaves_nothing(width, depth, make_trainer, make_batches, loader):
    screen = io.StringIO()
    bar = LossProgressBar(console_kwargs={"file": screen, "force_terminal": True, "width": width, "height": 50})
    heights = []

    class Measure(Callback):
        def measure(self, trainer, *_):
            lines = trainer.progress_bar_callback.progress.console.render_lines(
                trainer.progress_bar_callback.progress.get_renderable()
            )
            heights.append(len(lines))
            assert all(sum(segment.cell_length for segment in line) <= width for line in lines)

        on_train_batch_end = on_validation_batch_end = on_validation_end = on_train_epoch_end = measure

    trainer = make_trainer(enable_progress_bar=True, callbacks=[bar, Measure()], max_epochs=2)
    trainer.fit(
        PrimeNet(num_classes=3, image_size=(16, 16), depth=depth, channels=4, projection_channels=4, reduce_channels=2),
        loader(make_batches(2, shape=(1, 16, 16))),
        loader(make_batches(2, shape=(1, 16, 16), seed=1)),
    )
    assert {2} <= set(heights) <= {1, 2}
    assert screen.getvalue().endswith("\x1b[1A\x1b[2K")  # the last it does is to take its lines away


def test_in_a_file_nothing_is_drawn(make_trainer, make_batches, loader, capfd):
    trainer = make_trainer(enable_progress_bar=True, callbacks=[LossProgressBar()])
    trainer.fit(PrimeNet(num_classes=3, image_size=(8, 8)), loader(make_batches(2)), loader(make_batches(1)))
    assert capfd.readouterr().out == ""


@pytest.fixture(autouse=True)
def _console():
    """Each test has the console that rich shares anew."""
    yield
    rich.reconfigure()
