import numpy as np
import pytest
import torch

from primenet_lightning.datamodules import ImageTensors
from primenet_lightning.datamodules.in_memory import to_image_tensor, to_label_tensor


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_layouts_give_the_same_contiguous_tensor(kind, channels):
    first = np.random.default_rng(0).integers(0, 256, (4, channels, 5, 6), dtype=np.uint8)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    for layout in (first, last, first[:, 0]) if channels == 1 else (first, last):
        tensor = to_image_tensor(kind(layout), channels, (5, 6), "images")
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), first)


def test_right_layout_is_not_copied_and_unusual_memory_is_read():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    assert to_image_tensor(array, 3, (2, 2), "images").data_ptr() == array.ctypes.data
    read_only = np.frombuffer(array.tobytes(), dtype=np.uint8).reshape(array.shape)
    for unusual in (read_only, array[::-1], np.asfortranarray(array)):
        np.testing.assert_array_equal(to_image_tensor(unusual, 3, (2, 2), "images").numpy(), unusual)


@pytest.mark.parametrize(
    ("shape", "channels", "size", "message"),
    [
        (
            (2, 5, 6),
            3,
            (5, 6),
            r"toy images have shape \(2, 5, 6\); in_channels=3 and image_size=\(5, 6\) ask for",
        ),
        ((2, 6, 5), 1, (5, 6), r"or \(N, 5, 6\)\.$"),
        ((2, 4, 5, 6), 3, (5, 6), r"ask for \(N, 3, 5, 6\) or \(N, 5, 6, 3\)\.$"),
        ((2, 3, 3, 3), 3, (3, 3), "must not all be equal"),
        ((30,), 1, (5, 6), "have shape"),
    ],
)
def test_wrong_shapes_are_named(shape, channels, size, message):
    with pytest.raises(ValueError, match=message):
        to_image_tensor(np.zeros(shape, dtype=np.uint8), channels, size, "toy images")


def test_wrong_pixels_and_labels_are_named():
    with pytest.raises(ValueError, match=r"toy images are torch\.float32; give uint8"):
        to_image_tensor(torch.zeros(2, 1, 3, 3), 1, (3, 3), "toy images")
    for labels, message in [
        (np.array([0.0, 1.0]), r"toy labels are torch\.float64; give whole numbers"),
        (np.array([0, 1, 2]), r"shape \(3,\) for 2 images; give one an image"),
        (np.array([[0], [1]]), r"shape \(2, 1\) for 2 images"),
        (np.array([0, 3]), r"A toy label is 3; num_classes=3 allows 0 to 2"),
        (np.array([-1, 2]), r"A toy label is -1; num_classes=3 allows 0 to 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_label_tensor(labels, 2, 3, "toy")
    with pytest.raises(ValueError, match="There are no toy images"):
        to_label_tensor(np.array([], dtype=np.int64), 0, 3, "toy")


def test_a_batch_equals_a_loop_over_its_images():
    images = torch.randint(0, 256, (20, 3, 4, 4), dtype=torch.uint8)
    labels = torch.arange(20)
    subset = torch.tensor([19, 2, 3, 11])
    dataset = ImageTensors(images, labels, subset)
    pixels, chosen = dataset[torch.tensor([3, 0, 0])]
    assert len(dataset) == 4
    assert dataset.all_labels().tolist() == subset.tolist()
    for row, index in enumerate([11, 19, 19]):
        assert torch.equal(pixels[row], images[index])
        assert chosen[row] == index
