"""Checks that take a GPU: fp16 with its scaler, synchronised batch norm, NCCL, memory."""

import copy
import os
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import checkout  # noqa: F401
import torch
from gpu_place import Figures, Place
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.plugins.precision import MixedPrecision
from stacks import runner_of, stack
from torch import Tensor
from torch import distributed as dist
from ways import WAYS, build, make_batch

from primenet_lightning import PrimeNet, SavedActivations
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.training.exchange import ALONE, Exchange, Replicas
from primenet_lightning.training.fitting import quietly


class Blobs(ImageDataModule):
    """Made-up images, each class with a bright square of its own: a fit that works learns them in a few steps."""

    name = "blobs"
    num_classes, in_channels, image_size = 4, 1, (8, 8)
    class_names = ("one", "two", "three", "four")

    def load_arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw the images, the same ones at each call."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(400) % 4
        images = torch.randint(100, (400, 1, 8, 8), dtype=torch.uint8, generator=generator)
        for label in range(4):
            top, left = 4 * (label // 2), 4 * (label % 2)
            images[labels == label, :, top : top + 4, left : left + 4] += 120
        return images, labels, images[:80], labels[:80]


def fitted(place: Place, copies_ahead: bool = False, **options: Any) -> tuple[PrimeNet, Trainer]:
    """Fit the smallest network to the blobs.

    Args:
        place: Where.
        copies_ahead: Whether batches are copied to the GPU ahead of time.
        **options: Of the Trainer.

    Returns:
        Model and Trainer.
    """
    seed_everything(0, verbose=False)
    model = PrimeNet(1, (8, 8), 4, lr=0.003)
    with quietly():
        trainer = Trainer(
            max_epochs=2,
            accelerator=place.accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        data = Blobs(batch_size=40)
        data.copies_ahead = copies_ahead
        trainer.fit(model, datamodule=data)
    return model.cpu(), trainer


@cache
def fitted_twice(place: Place) -> tuple[PrimeNet, float]:
    """A fit, and how far the same fit ends from it: some kernels add up in an order that changes from run to run."""
    (one, _), (other, _) = fitted(place), fitted(place)
    return one, distance(one, other)


def copies_ahead(place: Place) -> Figures:
    """Fit with batches that are copied ahead, on a stream of their own, and without."""
    plain, by_chance = fitted_twice(place)
    apart = distance(plain, fitted(place, copies_ahead=True)[0])
    return {
        "largest_difference_by_chance": by_chance,
        "largest_difference": apart,
        "holds": apart <= max(1e-3, 3 * by_chance),
    }


def mixed_precision(place: Place) -> Figures:
    """Fit with ``16-mixed`` and its real scaler, beside float32; then from a scale at which gradients overflow.

    The scale is halved at each overflow. So the first steps are skipped, and those that follow have to learn.
    """

    def plugin(scale: float) -> MixedPrecision:
        scaler = torch.amp.GradScaler(place.device, init_scale=scale)
        return MixedPrecision("16-mixed", place.device, scaler=scaler)

    _, plain = fitted(place)
    half, scaled = fitted(place, plugins=[plugin(2.0**10)])
    overflowing, trainer = fitted(place, plugins=[plugin(2.0**20)])
    scaler = trainer.precision_plugin.scaler  # type: ignore[attr-defined]
    skipped = int(overflowing.skipped_steps)
    finite = all(bool(parameter.isfinite().all()) for parameter in overflowing.parameters())
    errors = {
        "validation_error_float32": float(plain.callback_metrics["val/error"]),
        "validation_error_16_mixed": float(scaled.callback_metrics["val/error"]),
        "validation_error_after_overflows": float(trainer.callback_metrics["val/error"]),
    }
    return {
        **errors,
        "skipped_steps_16_mixed": int(half.skipped_steps),
        "skipped_steps_from_2_to_the_20": skipped,
        "scale_in_the_end": float(scaler.get_scale()),
        "steps": trainer.global_step,
        "holds": finite and 0 < skipped < trainer.global_step and all(error < 20 for error in errors.values()),
    }


def one_process(place: Place) -> Figures:
    """Train by NCCL (gloo on the CPU) with one process, by the engine and by DDP with synchronised batch norm."""
    backend = "nccl" if place.device == "cuda" else "gloo"
    if place.device == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        by_messages = _by_messages(place)
    finally:
        dist.destroy_process_group()
    # Lightning's own group
    before = set(os.environ)
    alone, by_chance = fitted_twice(place)
    try:
        # torch has no SyncBatchNorm of tensors on the CPU
        synchronised, trainer = fitted(place, strategy="ddp", sync_batchnorm=place.device == "cuda")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for name in set(os.environ) - before:  # where to meet, which the next group has elsewhere
            del os.environ[name]
    kinds = {type(module).__name__ for module in synchronised.modules() if "BatchNorm" in type(module).__name__}
    by_ddp = distance(alone, synchronised)
    error = float(trainer.callback_metrics["val/error"])
    is_synchronised = place.device != "cuda" or kinds == {"SyncBatchNorm"}
    return {
        "backend": backend,
        "largest_difference_by_messages": by_messages,
        "largest_difference_by_chance": by_chance,
        "largest_difference_by_ddp_and_sync_batchnorm": by_ddp,
        "validation_error_by_ddp_and_sync_batchnorm": error,
        "kinds_of_batch_norm": sorted(kinds),
        "holds": by_messages < 1e-4 and by_ddp <= max(0.02, 3 * by_chance) and error < 20 and is_synchronised,
    }


def _by_messages(place: Place) -> float:
    """How far the gradients of a batch are apart with and without messages to oneself, see `gradients_apart`."""
    size = place.sizes.side
    network = stack(2, 2, in_shape=(3, size, size)).local.to(place.device)
    networks = [network, copy.deepcopy(network)]
    exchanges: list[Exchange] = [ALONE, Replicas()]
    images, target = make_batch(place.sizes.batch, (3, size, size))
    images, target = images.to(place.device), target.to(place.device)
    for member, exchange in zip(networks, exchanges, strict=True):
        runner = runner_of(member)
        runner.exchange = exchange
        runner.run(images, target, exchange.share(len(target), target.device))
    return gradients_apart(*map(gradients_of, networks))


def gradients_of(network: torch.nn.Module) -> list[Tensor]:
    """Copies of the gradients of all parameters, each in its shape.

    Raises:
        RuntimeError: If a parameter has none.
    """
    gradients: list[Tensor] = []
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            raise RuntimeError(f"{name} has no gradient")
        gradients.append(parameter.grad.clone())
    return gradients


def gradients_apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference between gradients, each over the largest number of its own gradient."""
    apart: list[Tensor] = []
    for a, b in zip(one, other, strict=True):
        apart.append((a - b).abs().max() / a.abs().max())
    return float(torch.stack(apart).max())  # NaN if there is one


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference between parameters."""
    distances: list[Tensor] = []
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        distances.append((a - b).detach().abs().max())
    return float(torch.stack(distances).max())  # NaN if there is one


def memory(place: Place) -> Figures:
    """Measure the most memory of a step by the ways of `ways.py`, over depth; on the CPU that of saved activations."""
    size = place.sizes.side
    images, target = make_batch(place.sizes.batch, (3, size, size))
    images, target = images.to(place.device), target.to(place.device)
    figures: Figures = {"bytes": {}}
    for name, way in WAYS.items():
        peaks: list[int] = []
        for depth in place.sizes.memory_depths:
            network = build(depth, (3, size, size)).to(place.device)
            way(network, images, target)  # gradients, and what libraries keep, are there before
            uncounted = [*network.parameters(), *network.buffers(), images, target]
            peaks.append(peak_bytes(place, partial(way, network, images, target), uncounted))
        figures["bytes"][name] = peaks
    figures["depths"] = list(place.sizes.memory_depths)
    by_stage = figures["bytes"]["blockwise"]
    figures["by_stage_deepest_over_shallowest"] = by_stage[-1] / by_stage[0]
    figures["by_stage_over_end_to_end"] = by_stage[-1] / figures["bytes"]["end_to_end"][-1]
    figures["holds"] = figures["by_stage_deepest_over_shallowest"] < 1.1
    return figures


def peak_bytes(place: Place, step: Any, uncounted: list[Tensor]) -> int:
    """Measure the most bytes that a step needs beyond those that are allocated before.

    Args:
        place: Where; on the CPU only what autograd saves is counted.
        step: Called once.
        uncounted: What is not counted on the CPU, tensors of any shape.

    Returns:
        Bytes.
    """
    if place.device != "cuda":
        with SavedActivations(uncounted) as counter:
            step()
        return counter.peak
    place.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    place.synchronize()
    return torch.cuda.max_memory_allocated() - before
