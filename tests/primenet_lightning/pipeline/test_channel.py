"""Tensors from one process to the next."""

import pytest
import torch
from torch import distributed

from primenet_lightning.pipeline.channel import Receiver, Sender


def tensors(first):
    torch.manual_seed(0)
    made = [
        torch.arange(24.0).reshape(2, 3, 4),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.arange(7, dtype=torch.int64),
        torch.randn(5, 6, dtype=torch.float64).T,
        torch.randn(4, 6)[:, ::2],  # with gaps
        torch.randn(3, 3).bfloat16(),
        torch.empty(0, 4),
        torch.tensor(1.5),
        torch.randn(50, 40),  # several frames
        torch.randn(3, 1, 1, 2).contiguous(memory_format=torch.channels_last),
    ]
    return made[first:] + made[:first]


def pass_on(first):
    if distributed.get_rank() == 0:
        sender = Sender(1)
        for place, x in enumerate(tensors(first)):
            sender.send({"place": place}, x)
        sender.close()
        return None
    receiver = Receiver(0)
    received = [receiver.receive() for _ in tensors(first)]
    receiver.close()
    return [(note["place"], x, x.stride()) for note, x in received]


@pytest.mark.parametrize("first", [0, 2, 6])  # small, middling and empty first frames
def test_tensors_arrive_as_they_were(ranks, first):
    _, received = ranks(pass_on, first)
    for place, (noted, x, strides) in enumerate(received):
        sent = tensors(first)[place]
        assert noted == place
        assert x.dtype == sent.dtype
        assert torch.equal(x, sent) or not sent.numel()
        dense = sent if sent.stride() != (6, 2) else sent.contiguous()
        assert strides == dense.stride()


def close_at_once(_):
    distributed.barrier()
    end = Sender(1) if distributed.get_rank() == 0 else Receiver(0)
    end.close()


def ask_too_much(_):
    if distributed.get_rank() == 0:
        Sender(1).close()
        return None
    receiver = Receiver(0)
    try:
        receiver.receive()
    except RuntimeError as error:
        return str(error)


def test_ends(ranks):
    ranks(close_at_once, 0)
    assert "has sent everything" in ranks(ask_too_much, 0)[1]


def test_a_note_that_does_not_fit_is_refused():
    sender = Sender(1, note_bytes=100)
    with pytest.raises(ValueError, match="does not go into note_bytes=100"):
        sender.send("x" * 200, torch.zeros(1))
