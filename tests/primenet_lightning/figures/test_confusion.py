import numpy as np
import torch

from primenet_lightning.analysis.views import as_pixels
from primenet_lightning.analysis.wrong_answers import WrongAnswers
from primenet_lightning.figures.confusion import draw_confusion, draw_errors


def test_matrix_shows_counts_where_they_fit():
    counts = torch.tensor([[970, 30], [0, 0]])
    axes = draw_confusion(counts, ["yes", "no"], "some").axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "970"), ((1, 0), "30")}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["yes", "no"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert np.array_equal(axes.images[0].get_array(), [[97, 3], [0, 0]])
    ten = draw_confusion(torch.full((10, 10), 1000), [str(i) for i in range(10)], "some").axes[0]
    assert len(ten.texts) == 100
    hundred = draw_confusion(torch.ones(100, 100).long(), [str(i) for i in range(100)], "some").axes[0]
    assert len(hundred.texts) == 0
    assert len(hundred.get_yticklabels()) == 25


def test_errors_are_told_in_words():
    errors = WrongAnswers(
        torch.tensor([2.5]), torch.zeros(1, 1, 2, 2), *torch.tensor([[0], [1]]), *torch.tensor([[0.1], [0.8]])
    )
    axes = draw_errors(errors, list(as_pixels(errors.images).numpy()), ["cat", "dog"], "some").axes
    assert axes[0].get_title() == "cat \u2192 dog\nloss 2.50 nats"
    assert [bool(each.images) for each in axes] == [True, False, False, False]


def test_the_picture_says_which_class_is_the_true_one():
    errors = WrongAnswers(
        torch.tensor([2.5]), torch.zeros(1, 1, 2, 2), *torch.tensor([[0], [1]]), *torch.tensor([[0.1], [0.8]])
    )
    pixels = list(as_pixels(errors.images).numpy())
    figure = draw_errors(errors, pixels, ["$5", "_a rather long name of a class_"], "some")
    assert figure.get_suptitle() == "some\nabove each image: true class \u2192 predicted class"
    assert figure.axes[0].get_title() == "$5 \u2192\n_a rather l\u2026f a class_\nloss 2.50 nats"
    figure.draw_without_rendering()


def test_a_matrix_of_awkward_names_is_drawn():
    names = ["_a", "$x$", "$", "two\nlines", "", "long " * 20, "\\frac", "%"]
    figure = draw_confusion(torch.eye(8).long(), names, "some $ of $ all")
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["_a", "$x$", "$", "two lines", "''", "long lo\u2026 long ", "\\frac", "%"]
