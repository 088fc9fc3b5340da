import torch

from primenet_lightning.analysis.views import as_pixels


def test_pixels_come_back_from_normalised_images():
    pixels = torch.randint(0, 256, (9, 3, 4, 5), dtype=torch.uint8)
    pixels[0, :, 0, 0], pixels[1, :, 0, 0] = 0, 255
    normalised = (pixels / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2
    assert torch.equal(as_pixels(normalised), pixels.permute(0, 2, 3, 1))
    assert torch.equal(as_pixels(normalised[:, :2]), pixels[:, 0])


def test_a_known_normalisation_is_undone():
    pixels = torch.randint(60, 200, (4, 3, 4, 5), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalised = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.equal(as_pixels(normalised, mean, std), pixels.permute(0, 2, 3, 1))
    one = (pixels[:, :1] / 255 - 0.5) / 0.25
    assert torch.equal(as_pixels(one, torch.tensor([0.5]), torch.tensor(0.25)), pixels[:, 0])


def test_pixels_without_a_known_normalisation_are_stretched():
    images = torch.tensor([[2.0, 4.0, 3.0], [0.0, -1.0, 1.0]]).view(2, 1, 1, 3)
    assert as_pixels(images).tolist() == [[[153, 255, 204]], [[51, 0, 102]]]
    assert as_pixels(torch.randn(2, 3, 4, 5), (0.5,), (0.5,)).shape == (2, 4, 5, 3)
    assert as_pixels(torch.randn(1, 2, 4, 5), (0.5,) * 3, (0.5,) * 3).shape == (1, 4, 5)


def test_no_image_and_no_number_make_no_trouble():
    assert as_pixels(torch.empty(0, 3, 4, 5), (0.5,), (0.5,)).shape == (0, 4, 5, 3)
    assert as_pixels(torch.full((1, 1, 2, 2), torch.nan)).tolist() == [[[0, 0], [0, 0]]]
