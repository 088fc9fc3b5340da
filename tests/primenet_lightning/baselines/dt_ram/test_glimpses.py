"""Where glimpses are, by hand."""

import pytest
import torch

from primenet_lightning.baselines.dt_ram import GlimpseSensor


def ramp(size=28):
    return torch.arange(float(size * size)).view(1, 1, size, size)


def look(image, y, x, patch=8):
    return GlimpseSensor(patch)(image, torch.tensor([[y, x]])).view(patch, patch)


def test_the_centre_is_rows_and_columns_10_to_17():
    assert torch.equal(look(ramp(), 0.0, 0.0), ramp()[0, 0, 10:18, 10:18])


def test_locations_are_y_before_x():
    """l = 0.5 begins at floor(0.75 * 26) = 19 of the padded image, which is row 16."""
    assert torch.equal(look(ramp(), 0.5, 0.0), ramp()[0, 0, 16:24, 10:18])


def test_corners_have_zeros_outside_the_image():
    image = ramp() + 1
    corner = look(image, -1.0, -1.0)
    assert torch.equal(corner[3:, 3:], image[0, 0, :5, :5])
    assert not corner[:3].any()
    assert not corner[:, :3].any()
    corner = look(image, 1.0, 1.0)  # begins at 26, which is 23
    assert torch.equal(corner[:5, :5], image[0, 0, 23:, 23:])
    assert not corner[5:].any()
    assert not corner[:, 5:].any()
    assert torch.equal(look(image, 9.0, 9.0), corner)


def test_depths_are_averages_of_larger_patches():
    sensor = GlimpseSensor(patch=4, depth=2)
    assert torch.equal(sensor(torch.ones(1, 3, 28, 28), torch.zeros(1, 2)), torch.ones(1, 2 * 3 * 16))
    near, far = sensor(ramp(), torch.zeros(1, 2)).view(2, 4, 4)
    assert torch.equal(near, ramp()[0, 0, 12:16, 12:16])
    eight = look(ramp(), 0.0, 0.0)
    for row in range(4):
        for column in range(4):
            mean = eight[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
            assert far[row, column].item() == pytest.approx(mean.item())


def test_a_batch_is_its_images_one_by_one():
    sensor = GlimpseSensor(patch=5, depth=2)
    images, locations = torch.randn(6, 2, 12, 9), torch.rand(6, 2) * 2 - 1
    together = sensor(images, locations)
    for image in range(6):
        alone = sensor(images[image : image + 1], locations[image : image + 1])[0]
        assert torch.equal(together[image], alone)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="depth=0 must be at least 1"):
        GlimpseSensor(depth=0)
