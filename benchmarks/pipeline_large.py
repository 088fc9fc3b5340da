"""What the model of `pipeline_model.py` says of large networks on 2 to 64 devices: images a second, four ways.

    python benchmarks/pipeline_large.py [--rate FLOPS] [--batch N] [--bandwidth BYTES] [--latency SECONDS]

Nothing is trained. What stages cost is counted in multiply-adds (a training step is three forward passes), and turned
into seconds by an assumed rate of a device. The local pipeline pays for its local classifiers; the other ways train end
to end. Beyond the parts that a network has, pipelines get replicas. The last line is one JSON object.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from pipeline_model import Stage, bubble_step, data_parallel_step, pipeline_step
from timing import conclude

from primenet_lightning.models.backbones import build_backbone
from primenet_lightning.nn.cutting.balance import costs_of, share_out
from primenet_lightning.nn.cutting.cut import pieces_of
from primenet_lightning.nn.cutting.network import CutNetwork

IN_SHAPE = (3, 224, 224)
DEVICES = (2, 4, 8, 16, 32, 64)
LOCAL_PARTS = 8
"""How many parts the network is cut into to see what local classifiers cost."""


class Large(NamedTuple):
    """A network.

    Attributes:
        multiply_adds: Of a forward pass of each block that it can be cut before, per image.
        map_numbers: That each block hands on, per image.
        parameters: Of the network.
        local: What local classifiers add to a forward pass, as a share of it.
    """

    multiply_adds: list[float]
    map_numbers: list[int]
    parameters: int
    local: float


class Machine(NamedTuple):
    """Devices, all alike.

    Attributes:
        rate: Floating-point operations a second.
        bandwidth: Between neighbours, bytes a second.
        latency: Of a message, seconds.
    """

    rate: float
    bandwidth: float
    latency: float


def large(name: str) -> Large:
    """Count what the blocks of a network cost; it has shapes and no numbers."""
    with torch.device("meta"):
        model = build_backbone(name, IN_SHAPE, 1000)
    pieces = pieces_of(model, IN_SHAPE)
    costs = costs_of([piece.part for piece in pieces], IN_SHAPE)
    numbers = [torch.Size(piece.gives.shape).numel() for piece in pieces]
    share = CutNetwork(model, IN_SHAPE, parts=LOCAL_PARTS, recipe="dgl").local_share().multiply_adds
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Large([cost.multiply_adds for cost in costs], numbers, parameters, share / (1 - share))


def seconds_of(network: Large, batch: float, machine: Machine) -> list[float]:
    """Seconds of a training step of each block, end to end."""
    return [6 * cost * batch / machine.rate for cost in network.multiply_adds]


def rates(network: Large, devices: int, batch: int, machine: Machine) -> dict[str, float]:
    """Images a second of each way."""
    best = {"local pipeline": 0.0, "GPipe, 1F1B": 0.0}
    for sections in range(2, min(devices, len(network.multiply_adds)) + 1):
        if devices % sections:
            continue
        replicas = devices // sections
        share = batch / replicas
        seconds = seconds_of(network, share, machine)
        begins = [0, *share_out(seconds, [0.0] * len(seconds), sections)]
        bytes_handed_on = [4 * count * share for count in network.map_numbers]
        ring = _ring(network, replicas, sections, machine)
        local = [second * (1 + network.local) for second in seconds]
        stages = [Stage(*pair) for pair in zip(local, bytes_handed_on, strict=True)]
        step = pipeline_step(stages, begins, machine.bandwidth, machine.latency) + ring
        best["local pipeline"] = max(best["local pipeline"], batch / step)
        step = _bubble(seconds, bytes_handed_on, begins, sections, machine) + ring
        best["GPipe, 1F1B"] = max(best["GPipe, 1F1B"], batch / step)
    whole = sum(seconds_of(network, batch, machine))
    step = data_parallel_step(whole, 4.0 * network.parameters, devices, machine.bandwidth, machine.latency)
    return {"data parallel": batch / step, **best}


def _ring(network: Large, replicas: int, sections: int, machine: Machine) -> float:
    """The gradients of a section's parameters on their way round its replicas; nothing hides it."""
    if replicas == 1:
        return 0.0
    size = 4 * network.parameters / sections / replicas
    return 2 * (replicas - 1) * (size / machine.bandwidth + machine.latency)


def _bubble(
    seconds: Sequence[float], handed_on: Sequence[float], begins: Sequence[int], sections: int, machine: Machine
) -> float:
    ends = [*begins[1:], len(seconds)]
    of_sections = [sum(seconds[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    maps = [handed_on[end - 1] for end in ends[:-1]]
    return bubble_step(of_sections, maps, 4 * sections, machine.bandwidth, machine.latency)


def main() -> None:
    """Print a table for each network and bandwidth, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1e14)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--bandwidth", type=float, nargs="+", default=[1.25e10, 1.25e8])
    parser.add_argument("--latency", type=float, default=1e-5)
    options = parser.parse_args()
    figures: dict[str, float | str] = {}
    for name in ("resnet152", "vit_l_16"):
        network = large(name)
        print(f"{name}: {len(network.multiply_adds)} blocks, local classifiers {network.local:.1%} more multiply-adds")
        figures[f"{name}: local classifiers"] = network.local
        for bandwidth in options.bandwidth:
            machine = Machine(options.rate, bandwidth, options.latency)
            print(f"  {8 * bandwidth / 1e9:g} Gb/s, images a second")
            for devices in DEVICES:
                found = rates(network, devices, options.batch, machine)
                print(f"  {devices:3} devices: " + ", ".join(f"{way} {rate:,.0f}" for way, rate in found.items()))
                for way, rate in found.items():
                    figures[f"{name}, {8 * bandwidth / 1e9:g} Gb/s, {devices}: {way}"] = round(rate, 1)
    conclude(figures, [])


if __name__ == "__main__":
    main()
