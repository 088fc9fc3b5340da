from types import SimpleNamespace

import pytest

from primenet_lightning.figures.probe import draw_probe


def test_errors_are_drawn_on_a_logarithmic_axis():
    result = SimpleNamespace(
        train_accuracy=[90.0, 99.0, 100.0],
        validation_accuracy=[80.0, 98.0, 98.5],
        train_loss=[1.0, 0.5, 0.25],
        epochs_until_converged=2,
        test_error=1.5,
    )
    figure = draw_probe(result, "head", finetune=False, phase1_test_error=None, within=0.1)
    left, right = figure.axes
    training, validation, _ = left.lines
    assert list(training.get_ydata()) == pytest.approx([10, 1, 0])
    assert list(validation.get_ydata()) == pytest.approx([20, 2, 1.5])
    assert (left.get_yscale(), left.get_ylabel()) == ("symlog", "error (%)")  # down to 0
    assert right.get_yscale() == "log"
    figure.draw_without_rendering()
