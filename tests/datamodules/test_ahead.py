"""Batches copied ahead; there is no GPU here, so that stand-ins take the place of streams."""

from contextlib import contextmanager

import pytest
import torch

from primenet_lightning.datamodules import BatchLoader, EpochBatchSampler, ImageTensors
from primenet_lightning.datamodules.ahead import copied_ahead

CPU = torch.device("cpu")


@pytest.fixture
def journal(monkeypatch):
    """What is copied, waited for and taken, in this order."""
    lines, in_use = [], []

    class Stream:
        def __init__(self, device):
            assert device == CPU

        def wait_stream(self, other):
            assert self is main
            assert other is not self
            lines.append("wait")

    main = Stream(CPU)

    @contextmanager
    def stream(entered):
        in_use.append(entered)
        yield
        in_use.pop()

    def to(tensor, device, non_blocking):
        assert non_blocking
        assert in_use  # on the stream of the copies
        lines.append(f"copy {int(tensor.flatten()[0])}")
        return tensor.clone()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, used: lines.append("keep") or used)
    return lines


def batches(count):
    return [(torch.full((2, 1), number), torch.full((2,), number)) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_batches_come_in_their_order(count, journal):
    taken = list(copied_ahead(batches(count), CPU))
    assert len(taken) == count
    for one, other in zip(taken, batches(count), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_next_batch_is_copied_before_one_is_taken(journal):
    for images, _ in copied_ahead(batches(3), CPU):
        journal.append(f"take {int(images[0])}")
    arrived = ["wait", "keep", "keep"]
    expected = ["copy 0", "copy 0", "copy 1", "copy 1", *arrived, "take 0"]
    expected += ["copy 2", "copy 2", *arrived, "take 1", *arrived, "take 2"]
    assert journal == expected


def test_a_loader_copies_ahead_where_it_is_told(journal):
    dataset = ImageTensors(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), torch.arange(6))

    def labels(device):
        loader = BatchLoader(dataset, EpochBatchSampler(6, 2, shuffle=False), device=device)
        return [labels.tolist() for _, labels in loader]

    assert labels(None) == [[0, 1], [2, 3], [4, 5]]
    assert journal == []
    assert labels(CPU) == [[0, 1], [2, 3], [4, 5]]
    assert journal.count("wait") == 3
