"""Soft filter pruning against its paper's rule, and the pruned cost against counts by hand."""

import copy

import pytest
import torch
from lightning.pytorch import Callback
from tiny import TinyData, make_model, make_trainer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from primenet_lightning import PrimeNetwork, architecture, count_cost
from primenet_lightning.baselines import CifarResNet20, OneScale, ResNet20
from primenet_lightning.callbacks import AveragedWeights, LastCheckpoint, SoftFilterPruning
from primenet_lightning.callbacks.filter_pruning import convolutions, prune_filters, pruned_multiply_adds

LAYERS = 19


def zeros(model):
    """Indices of the filters that are zero, by convolution."""
    found = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    return {name: [i for i, f in enumerate(weight) if not f.any()] for name, weight in found.items()}


class Watch(Callback):
    """How many filters are zero when a batch begins, and when a validation looks at them."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.trained.append(sum(map(len, zeros(pl_module).values())))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.validated.append(sum(map(len, zeros(pl_module).values())))


def test_the_filters_of_least_norm_are_zero_and_no_others():
    """Filters (3, 4), (5, 1), (0, 6), (-4, -4): their norms are 5, 5.10, 6 and 5.66, of order 1: 7, 6, 6 and 8."""
    first = torch.tensor([[3.0, 4], [5, 1], [0, 6], [-4, -4]]).view(4, 1, 1, 2)
    for rate, norm, expected in [(0.0, 2, []), (0.5, 2, [0, 1]), (0.74, 2, [0, 1]), (0.75, 2, [0, 1, 3])]:
        model = nn.Sequential(nn.Conv2d(1, 4, (1, 2)), nn.Conv2d(4, 1, 1))
        model[0].weight.data.copy_(first)
        bias, last = model[0].bias.clone(), model[1].weight.clone()
        masks = prune_filters(model, rate, norm)
        assert masks.keys() == {"0"}  # the other convolution has one filter only
        assert masks["0"].nonzero().flatten().tolist() == zeros(model)["0"] == expected
        kept = [i for i in range(4) if i not in expected]
        assert torch.equal(model[0].weight[kept], first[kept])
        assert torch.equal(model[0].bias, bias)
        assert torch.equal(model[1].weight, last)
    for norm, expected in [(1, [1, 2]), (8, [0, 3])]:  # of order 1 two tie, of order 8 the largest value decides
        model[0].weight.data.copy_(first)
        assert prune_filters(model, 0.5, norm)["0"].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize(("rate", "count"), [(0.29, 29), (0.07, 7), (0.999, 99)])
def test_the_count_is_the_floor_of_the_exact_product(rate, count):
    assert prune_filters(nn.Sequential(nn.Conv2d(1, 100, 1)), rate)["0"].sum() == count


def fit(folder, callbacks, model=None, **options):
    watch = Watch()
    trainer = make_trainer(folder, [*callbacks, watch], enable_checkpointing=True, **(dict(max_epochs=3) | options))
    torch.manual_seed(1)
    model = CifarResNet20(2, (8, 8), 3) if model is None else model
    trainer.fit(model, TinyData(batch_size=25))
    return trainer, model, watch


def test_they_grow_back_and_validation_and_checkpoint_see_them_pruned(tmp_path):
    pruning, last = SoftFilterPruning(0.25), LastCheckpoint(tmp_path)
    _, model, watch = fit(tmp_path, [pruning, last], num_sanity_val_steps=1)
    quarter = 7 * 4 + 6 * 8 + 6 * 16  # 16, 32 and 64 filters in 7, 6 and 6 convolutions
    assert watch.validated == [0, quarter, quarter, quarter]  # before training, nothing is pruned
    assert watch.trained[:3] == [0, 0, 0]
    assert watch.trained[3] == watch.trained[6] == quarter
    assert watch.trained[4] < quarter / 10  # one step later
    assert pruning.pruned == zeros(model)
    assert len(pruning.masks) == LAYERS
    saved = torch.load(last.path, weights_only=True)
    other = CifarResNet20(2, (8, 8), 3)
    other.load_state_dict(saved["state_dict"])
    assert zeros(other) == pruning.pruned
    resumed = SoftFilterPruning(0.25)
    resumed.load_state_dict(saved["callbacks"]["SoftFilterPruning"])
    assert resumed.pruned == pruning.pruned


@pytest.mark.parametrize(
    ("options", "validated", "trained"),
    [
        (dict(every=2), [0, 1, 1], [0, 0, 1]),  # the last epoch always prunes
        (dict(limit_val_batches=0), [], [0, 1, 1]),
        (dict(check_val_every_n_epoch=2), [1], [0, 1, 1]),
        (dict(val_check_interval=1, max_epochs=2), [0, 0, 1, 0, 0, 1], [0, 1]),  # not in the middle of an epoch
    ],
    ids=str,
)
def test_when_it_prunes(options, validated, trained, tmp_path):
    """By whether filters are zero in validations, and when an epoch begins."""
    pruning = SoftFilterPruning(0.5, options.get("every", 1))
    options = {name: value for name, value in options.items() if name != "every"}
    _, model, watch = fit(tmp_path, [pruning], OneScale(2, (8, 8), 3, channels=8), **options)
    half = (8 + 8 + 96) // 2
    assert [int(count == half) for count in watch.validated] == validated
    assert [int(count == half) for count in watch.trained[::3]] == trained
    assert all(len(indices) > 0 for indices in zeros(model).values())


def test_a_prime_net_is_pruned_as_any_other_but_for_what_is_skipped(tmp_path):
    model = make_model()
    _, model, _ = fit(tmp_path, [SoftFilterPruning(0.5, skip=["network.head.*"])], model)
    found = zeros(model)
    head = [name for name in found if ".head." in name]
    assert len(head) == 1
    assert all(len(found[name]) == (name not in head) * len(model.get_submodule(name).weight) // 2 for name in found)


def test_impossible_options_are_refused(tmp_path):
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"rate={rate} is out of range"):
            SoftFilterPruning(rate)
    with pytest.raises(ValueError, match="every_n_epochs=0 must be at least 1"):
        SoftFilterPruning(0.5, every_n_epochs=0)
    with pytest.raises(ValueError, match="norm=0 is no order"):
        SoftFilterPruning(0.5, norm=0)
    with pytest.raises(
        ValueError, match=r"skip='stem' names no convolution that is left; there are network\.model\.stem\.0"
    ):
        fit(tmp_path, [SoftFilterPruning(0.5, skip=["stem"])])
    with pytest.raises(ValueError, match="AveragedWeights puts its average in place"):
        fit(tmp_path, [SoftFilterPruning(0.5), AveragedWeights()], make_model())
    net = nn.Sequential(nn.Conv2d(1, 4, 1))
    with pytest.raises(ValueError, match="a mask of 3 filters for '0', which fits no convolution"):
        pruned_multiply_adds(net, (1, 4, 4), {"0": torch.zeros(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="1 is a GroupNorm, through which zeros cannot be followed"):
        pruned_multiply_adds(nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4)), (1, 4, 4), 0.5)


def counted(model, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("build", "shape"), [(ResNet20, (3, 32, 32)), (resnet18, (3, 32, 32))], ids=["ResNet20", "resnet18"]
)
def test_with_nothing_pruned_it_counts_what_torch_counts(build, shape):
    model = build().eval()
    assert pruned_multiply_adds(model, shape, 0.0) == counted(model, shape)


def test_of_a_prime_net_it_counts_the_architecture():
    network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
    assert pruned_multiply_adds(network, (1, 8, 8), 0.0) == count_cost(network).multiply_adds_inference


def test_a_chain_by_hand_and_against_the_network_without_the_filters():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
    )
    before = copy.deepcopy(net.state_dict())
    # 6x6, then 4x4 and 2x2 pixels; a quarter of 8 and of 6 filters are 2 and 1
    assert pruned_multiply_adds(net, (1, 6, 6), 0.25) == 16 * 9 * 6 + 4 * 9 * 6 * 5 + 4 * 5 * 5
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    smaller = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(20, 5))
    assert pruned_multiply_adds(net, (1, 6, 6), 0.25) == counted(smaller, (1, 6, 6))


class Sum(nn.Module):
    """A shortcut: a(x) + b(x), read by c."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 10, 1, groups=2)

    def forward(self, x):
        return self.c((self.a(x) + self.b(x)).relu())


def test_a_channel_of_a_sum_is_gone_only_where_both_are():
    """Of 5x5 pixels; a keeps channels 2 and 3, b keeps 1, 2 and 3, so that c reads 1, 2 and 3 in two groups."""
    first, second = torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False])
    count = pruned_multiply_adds(Sum(), (3, 5, 5), {"a": first, "b": second})
    assert count == 25 * (2 * 3 + 3 * 3 + 5 * 1 + 5 * 2)
    assert pruned_multiply_adds(Sum(), (3, 5, 5), {}) == 25 * (12 + 12 + 20)


def test_resnet20_saves_less_than_both_ends_of_every_convolution():
    model = ResNet20().eval()
    whole, left = counted(model, (3, 32, 32)), pruned_multiply_adds(model, (3, 32, 32), 0.25)
    assert 0.75**2 * whole < left < 0.75 * whole
    assert len(convolutions(model)) == LAYERS
