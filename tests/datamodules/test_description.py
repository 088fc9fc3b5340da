import pytest

from primenet_lightning.datamodules.description import FIELDS, complete_description


def test_what_is_missing_comes_from_the_network():
    complete = complete_description({"mean": 0.5, "std": [0.1, 0.2, 0.3]}, (3, 8, 9), 2)
    assert complete == {
        "dataset": "unknown",
        "class_names": ["0", "1"],
        "image_size": [8, 9],
        "in_channels": 3,
        "num_classes": 2,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.1, 0.2, 0.3],
        "picture_size": [8, 9],
        "fit": None,
    }
    assert set(complete) == set(FIELDS)
    assert complete_description(complete, (3, 8, 9), 2) == complete


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"colour": 1}, "description has 'colour', which it does not take; it takes dataset, class_names"),
        ({"image_size": (9, 8)}, r"description has image_size=\[9, 8\], but the network was built with"),
        ({"num_classes": 3}, "description has num_classes=3, but the network was built with num_classes=2"),
        ({"std": 0}, "std=0 must be positive"),
        ({"std": [1, -1, 1]}, r"std=\[1, -1, 1\] must be positive"),
        ({"mean": [0.5, 0.5]}, "mean has 2 numbers for in_channels=3; give one for each channel, or one"),
        ({"class_names": ["a"]}, "class_names of the checkpoint has 1 names for num_classes=2"),
        ({"class_names": ["a", "a"]}, "class_names of the checkpoint has 'a' 2 times"),
    ],
)
def test_what_does_not_fit_the_network_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        complete_description({"mean": 0.5, "std": 0.5} | given, (3, 8, 9), 2)
