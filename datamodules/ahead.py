"""Batches that are copied to a GPU ahead of time, on a stream of their own, while the one before them is learned."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Images and labels."""


def copied_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to a GPU when the one before it is asked for.

    The copy of a batch is under way while the kernels of the one before it run: it has a stream of its own. Who takes a
    batch has its own stream wait for the copy; the processor does not wait.

    Args:
        batches: In page-locked memory, from where a copy does not wait: images (batch, channels, height, width) and
            labels (batch,).
        device: A GPU of CUDA.

    Yields:
        The batches in their order, of the same shapes, on the GPU.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: Batch | None = None
    for images, labels in batches:
        with torch.cuda.stream(stream):
            following = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if ahead is not None:
            yield _arrived(ahead, stream, device)
        ahead = following
    if ahead is not None:
        yield _arrived(ahead, stream, device)


def _arrived(batch: Batch, stream: torch.cuda.Stream, device: torch.device) -> Batch:
    """Have the stream in use wait for the copies, and say that it uses their memory: else it might be given away."""
    in_use = torch.cuda.current_stream(device)
    in_use.wait_stream(stream)
    for tensor in batch:
        tensor.record_stream(in_use)
    return batch
