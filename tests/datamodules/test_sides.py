"""Random sides against Python's whole numbers, and flips that alternate wherever a run may be cut or shared."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from tiny import Plain, TinyData, differences, distance, make_model, make_trainer, same, state
from torchvision.transforms import v2

from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.datamodules import Augment
from primenet_lightning.datamodules.sides import random_sides


def mixed(z):
    """SplitMix64's output function, on whole numbers from 0 to 2**64 - 1."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def side(image, seed):
    pixels, total = bytes(image.flatten().tolist()), 0
    for place, start in enumerate(range(0, len(pixels), 8), 1):
        word = int.from_bytes(pixels[start : start + 8].ljust(8, b"\0"), "little")
        total += word * (mixed((place + seed * 0x9E3779B97F4A7C15) % 2**64) | 1)
    return mixed(total % 2**64) >= 2**63


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 4, 4), (1, 1, 1)])
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_they_are_those_of_whole_numbers_without_bound(shape, seed):
    images = torch.randint(256, (20, *shape), dtype=torch.uint8)
    assert random_sides(images, seed).tolist() == [side(image, seed) for image in images]


def test_half_of_all_images_also_of_images_that_are_nearly_equal():
    images = torch.zeros(4096, 1, 16, 256, dtype=torch.uint8)
    images.flatten(1)[torch.arange(4096), torch.arange(4096)] = 1
    sides = torch.stack([random_sides(images, seed) for seed in range(8)]).double()
    within = 5 / math.sqrt(4096)
    assert (2 * sides.mean(1) - 1).abs().max() < within
    assert (torch.corrcoef(sides) - torch.eye(8)).abs().max() < within
    assert abs(torch.corrcoef(torch.stack([sides[0, 1:], sides[0, :-1]]))[0, 1]) < within


def test_they_are_of_the_image_and_not_of_its_batch_or_memory():
    images = torch.randint(256, (50, 3, 9, 9), dtype=torch.uint8)
    sides = random_sides(images, 3)
    assert torch.equal(random_sides(images[7:12], 3), sides[7:12])
    view = images.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert torch.equal(random_sides(view, 3), sides)
    assert len(random_sides(images[:0], 3)) == 0


class Shown(Callback):
    """By epoch, which of the images, told by their label and pixels, were mirrored."""

    def __init__(self):
        self.epochs = [{} for _ in range(4)]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        mirrored = batch[0].flip(-1)
        for image, other in zip(batch[0], mirrored, strict=True):
            one, two = (bytes((128 * pixels + 128).to(torch.uint8).flatten().tolist()) for pixels in (image, other))
            self.epochs[trainer.current_epoch][min(one, two)] = one < two


def fit(folder, ckpt_path=None, devices=1, epochs=4, **options):
    shown, last = Shown(), LastCheckpoint(folder, 1)
    options = dict(flip="alternating") | options
    trainer = make_trainer(
        folder,
        [shown, last],
        enable_checkpointing=True,
        max_epochs=epochs,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
    )
    model = make_model(Plain)
    trainer.fit(model, TinyData(batch_size=20, augmentation=Augment(**options)), ckpt_path=ckpt_path, weights_only=True)
    return trainer, shown.epochs, last.path


def test_every_image_is_turned_round_from_epoch_to_epoch(tmp_path):
    _, (first, second, third, fourth), _ = fit(tmp_path)
    assert len(first) == 75
    assert all(second[image] != mirrored for image, mirrored in first.items())
    assert third == first
    assert fourth == second
    assert 20 < sum(first.values()) < 55


def test_it_goes_on_in_mid_epoch_to_the_same_bits(tmp_path):
    torch.manual_seed(0)
    *_, last = fit(tmp_path, crop=2)
    whole = torch.load(last, weights_only=True)
    for step in (2, 6):
        last = fit_until(tmp_path / f"{step}", step)
        torch.manual_seed(99)
        *_, last = fit(tmp_path / "resumed", ckpt_path=last, crop=2)
        assert not differences(whole["state_dict"], torch.load(last, weights_only=True)["state_dict"])


def fit_until(folder, step):
    last = LastCheckpoint(folder, 1)
    torch.manual_seed(0)
    trainer = make_trainer(folder, [last, Until(step)], enable_checkpointing=True, max_epochs=4, precision="64-true")
    data = TinyData(batch_size=20, augmentation=Augment(flip="alternating", crop=2))
    with pytest.raises(ZeroDivisionError):
        trainer.fit(make_model(Plain), data)
    return last.path


class Until(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ZeroDivisionError


def fitted_state(folder, devices):
    return state(fit(folder, devices=devices)[0].lightning_module)


def test_two_ranks_flip_as_one_does(ranks, tmp_path):
    first, second = ranks(fitted_state, tmp_path, 2)
    assert same(first, second)
    assert distance(first, fitted_state(tmp_path, 1)) < 1e-9


def test_the_seed_of_the_data_changes_the_sides():
    images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    augment, flips = Augment(flip="alternating"), []
    for epoch, seed in ((0, 0), (1, 0), (2, 0), (0, 1)):
        augment.set_epoch(epoch, seed)
        flips.append(augment.draw(images).flipped)
    assert torch.equal(flips[1], ~flips[0])
    assert torch.equal(flips[2], flips[0])
    assert 16 < (flips[3] ^ flips[0]).sum() < 48


def test_it_is_told_the_epoch_in_a_sequence_and_must_come_first(tmp_path):
    alternating = Augment(flip="alternating")
    for sequence in (torch.nn.Sequential(alternating, Augment(cutout=2)), v2.Compose([alternating, Augment(crop=1)])):
        make_trainer(tmp_path).fit(make_model(Plain), TinyData(batch_size=20, augmentation=sequence))
    for sequence in (torch.nn.Sequential(Augment(crop=1), alternating), v2.Compose([Augment(crop=1), alternating])):
        with pytest.raises(ValueError, match=r"flip='alternating'\) after another part.*give it first"):
            TinyData(augmentation=sequence)


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match="flip='always' is unknown; give True, False or 'alternating'"):
        Augment(flip="always")
    hidden = Augment(flip="alternating")
    with pytest.raises(ValueError, match="flip='alternating' has to know the epoch"):
        make_trainer(tmp_path).fit(make_model(Plain), TinyData(batch_size=20, augmentation=lambda x: hidden(x)))
