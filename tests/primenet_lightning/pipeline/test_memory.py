"""What a process of a pipeline holds."""

import rowed
import torch
from torch import distributed, nn
from torch.autograd.graph import saved_tensors_hooks

from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.pipeline.memory import free_others
from primenet_lightning.training.runner import StageRunner

BEGINS = [0, 1, 2, 3]


def balanced():
    """Four stages of about the same number of parameters."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(4)]
    return CutNetwork(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)), (8, 8, 8), at=["1", "2", "3"]
    )


def held(tensors):
    """Bytes of tensors that have memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if not tensor.is_meta)


def of_training(network, optimizer):
    """Bytes of parameters, gradients and optimizer states."""
    parameters = list(network.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    return held([*parameters, *gradients, *states])


class Saved:
    """The most that was saved for backward passes at a time, in bytes of distinct memory."""

    def __init__(self, network):
        self.own = {tensor.untyped_storage().data_ptr() for tensor in network.parameters() if not tensor.is_meta}
        self.alive, self.peak = {}, 0

    def pack(self, tensor):
        key = tensor.untyped_storage().data_ptr()
        if key in self.own:
            return tensor
        self.alive[key] = self.alive.get(key, 0) + 1
        sizes[key] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(sizes[other] for other, count in self.alive.items() if count))
        return _Kept(tensor, self, key)

    @staticmethod
    def unpack(kept):
        return kept.tensor if isinstance(kept, _Kept) else kept


sizes = {}


class _Kept:
    def __init__(self, tensor, saved, key):
        self.tensor, self.saved, self.key = tensor, saved, key

    def __del__(self):
        self.saved.alive[self.key] -= 1


def trained(runner):
    """Two steps; bytes of training, and of saved activations at most."""
    x, target = torch.randn(16, 8, 8, 8), torch.randint(3, (16,))
    saved = Saved(runner.network)
    with saved_tensors_hooks(saved.pack, saved.unpack):
        runner.run(x, target)
        runner.run(x, target)
    total = of_training(runner.network, runner.optimizer)
    runner.optimizer.step()
    return max(total, of_training(runner.network, runner.optimizer)), saved.peak


def alone():
    network = balanced()
    return trained(StageRunner(network, rowed.composite(network.learners())))


def in_a_row(begins):
    network = balanced()
    section = rowed.join(network, begins)
    free_others(section)
    runner = StageRunner(network, rowed.composite(section.learners()), section=section)
    result = trained(runner)
    section.line.close()
    assert distributed.is_initialized()
    return result


def test_a_process_holds_what_its_stages_need(four_ranks):
    whole, peak = alone()
    results = four_ranks(in_a_row, BEGINS)
    assert max(total for total, _ in results) <= 0.35 * whole
    map_of_a_stage = 16 * 8 * 8 * 8 * 4
    assert max(of_one for _, of_one in results) <= peak + 2 * map_of_a_stage
    assert sum(total for total, _ in results) == whole
