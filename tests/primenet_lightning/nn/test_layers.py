import pytest
import torch
from torch import nn

from primenet_lightning.nn.layers import (
    at_least_float32,
    autocast_off,
    blank_input,
    check_input,
    glorot_,
    size_after,
    trial_run,
)


def test_glorot_is_uniform_within_its_bound_and_leaves_other_layers_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(64, 128))
    model[1].weight.data.fill_(3.0)
    assert glorot_(model) is model
    for layer, fans in ((model[0], (8 * 9, 32 * 9)), (model[3], (64, 128))):
        bound = (6 / sum(fans)) ** 0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.1)
        assert not layer.bias.any()
    assert (model[1].weight == 3).all()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_what_losses_are_computed_from_has_at_least_32_bits(dtype, expected):
    x = torch.ones(2, 3, dtype=dtype)
    wide = at_least_float32(x)
    assert wide.dtype == expected
    assert (wide is x) == (dtype == expected)


def test_without_autocast_tensors_keep_their_precision():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with autocast_off(x):
            assert (x @ x).dtype == torch.float32


def test_a_trial_run_leaves_no_trace_even_if_it_fails():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(0.5)), nn.Flatten())
    model[1].eval()
    modes = [part.training for part in model.modules()]
    mean = model[0].running_mean.clone()
    with trial_run(model):
        assert not any(part.training for part in model.modules())
        assert not torch.is_grad_enabled()
        model(torch.ones(2, 2, 3, 3))
    with pytest.raises(RuntimeError, match="running_mean"), trial_run(model):
        model(torch.ones(2, 5, 3, 3))
    assert [part.training for part in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert torch.equal(model[0].running_mean, mean)


def test_blank_images_are_as_the_module_is():
    images = blank_input(nn.Conv2d(3, 2, 1, dtype=torch.float64, device="meta"), (3, 8, 6))
    assert (images.shape, images.dtype, images.device.type) == ((2, 3, 8, 6), torch.float64, "meta")
    assert blank_input(nn.ReLU(), (4,)).shape == (2, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 8, 8), r"x has shape \(3, 8, 8\), but this stage was built for \(batch, 3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 9), r"x has shape \(2, 3, 8, 9\), but"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "x has dtype torch.uint8; normalise images to floating point"),
    ],
)
def test_input_of_another_shape_or_of_integers_is_refused(x, message):
    check_input(torch.zeros(0, 3, 8, 8), (3, 8, 8), "stage")
    with pytest.raises(ValueError, match=message):
        check_input(x, (3, 8, 8), "stage")


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 3)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_sizes_are_those_of_convolutions(stride, kernel_size):
    convolution = nn.Conv2d(1, 1, kernel_size, stride=stride, padding=kernel_size // 2)
    for size in [(7, 8), (1, 9), (6, 3)]:
        assert convolution(torch.zeros(1, 1, *size)).shape[2:] == size_after(stride, size)
