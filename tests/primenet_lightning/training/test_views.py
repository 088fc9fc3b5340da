"""Logits averaged over views of the test images, against airbench's own lines."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TinyData, make_model, make_trainer
from torch import nn

from primenet_lightning import CutNet, EndToEnd, PrimeNet
from primenet_lightning.models.linear_probe import LinearProbe
from primenet_lightning.training.views import Views


def infer_mirror(inputs, net):
    return 0.5 * net(inputs) + 0.5 * net(inputs.flip(-1))


def infer_mirror_translate(inputs, net, pad=1):
    """As airbench94.py has it, for any number of pixels."""
    logits = infer_mirror(inputs, net)
    height, width = inputs.shape[2:]
    padded = F.pad(inputs, (pad,) * 4, "reflect")
    translated = [padded[:, :, :height, :width], padded[:, :, 2 * pad : height + 2 * pad, 2 * pad : width + 2 * pad]]
    logits_translate = torch.stack([infer_mirror(image, net) for image in translated]).mean(0)
    return 0.5 * logits + 0.5 * logits_translate


class Small(EndToEnd):
    def configure_backbone(self):
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def small(seed=2, **options):
    torch.manual_seed(seed)
    return Small(2, (8, 8), 3, **options)


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
@pytest.mark.parametrize("shifts", [1, 2])
def test_they_are_averaged_as_airbench_does(size, shifts):
    images = torch.randn(5, 2, *size)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * size[0] * size[1], 3))
    for views, expected in (
        (Views(flips=True), infer_mirror(images, net)),
        (Views(flips=True, shifts=shifts), infer_mirror_translate(images, net, shifts)),
        (Views(), net(images)),
    ):
        torch.testing.assert_close(views.averaged(images, net(images), net), expected)


def test_shifts_alone_are_of_the_images_without_their_mirrors():
    images = torch.arange(9.0).view(1, 1, 3, 3)
    padded = F.pad(images, [1] * 4, mode="reflect")
    expected = images / 2 + (padded[:, :, :3, :3] + padded[:, :, 2:, 2:]) / 4
    averaged = Views(shifts=1).averaged(images, images.flatten(1), lambda x: x.flatten(1))
    torch.testing.assert_close(averaged, expected.flatten(1))


def logged(model, folder, **options):
    trainer = make_trainer(folder, **options)
    trainer.test(model, TinyData(batch_size=20, eval_batch_size=7), verbose=False)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def errors(model, infer):
    """In %, in one batch of plain torch."""
    data = TinyData()
    data.setup("test")
    images, target = data.test_dataset[torch.arange(len(data.test_dataset))]
    with torch.no_grad():
        answers = infer(data.normalize(images), model.eval()).argmax(1)
    return 100 * (answers != target).double().mean().item()


@pytest.mark.parametrize(
    "make", [small, lambda **options: make_model(PrimeNet, **options)], ids=["one stage", "blocks"]
)
def test_a_test_counts_them_beside_the_plain_answers(make, tmp_path):
    plain = logged(make(), tmp_path)
    flips = logged(make(test_flips=True), tmp_path)
    both = logged(make(test_flips=True, test_shifts=1), tmp_path)
    assert plain.items() <= flips.items()
    assert flips.keys() - plain.keys() == {"test/accuracy_flips", "test/error_flips"}
    assert both.keys() - plain.keys() == {"test/accuracy_flips_shifts", "test/error_flips_shifts"}
    model = make()
    assert plain["test/error"] == pytest.approx(errors(model, lambda images, net: net(images)), abs=1e-4)
    assert flips["test/error_flips"] == pytest.approx(errors(model, infer_mirror), abs=1e-4)
    assert both["test/error_flips_shifts"] == pytest.approx(errors(model, infer_mirror_translate), abs=1e-4)
    assert flips["test/accuracy_flips"] == pytest.approx(1 - flips["test/error_flips"] / 100)


def test_validation_does_not(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.validate(small(test_flips=True), TinyData(batch_size=20), verbose=False)
    assert not [name for name in trainer.callback_metrics if "flips" in name]


def logged_by_rank(folder, devices):
    strategy = "ddp" if devices > 1 else "auto"
    return logged(small(seed=5, test_flips=True, test_shifts=2), folder, devices=devices, strategy=strategy)


def test_two_ranks_count_what_one_counts(ranks, tmp_path):
    one = logged_by_rank(tmp_path, 1)
    assert one["test/error_flips_shifts"] != one["test/error"]  # so that something is counted
    for there in ranks(logged_by_rank, tmp_path, 2):
        assert there["test/error_flips_shifts"] == one["test/error_flips_shifts"]


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="test_shifts"):
        small(test_shifts=-1)
    with pytest.raises(ValueError, match="test_shifts"):
        small(test_shifts=0.5)
    with pytest.raises(ValueError, match="test_shifts=32 moves images of 32 x 32 pixels out of sight"):
        CutNet("resnet18", test_shifts=32)
    for name, value in (("test_flips", True), ("test_shifts", 1)):
        with pytest.raises(
            ValueError, match=f"{name}={value} is for images, and without a backbone there are features"
        ):
            LinearProbe(6, 3, **{name: value})
