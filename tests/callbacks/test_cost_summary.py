import pytest
from lightning.pytorch import Trainer
from torch import nn

from primenet_lightning import CutNet, PrimeNet
from primenet_lightning.baselines import CifarResNet20
from primenet_lightning.callbacks import CostSummary
from primenet_lightning.callbacks.cost_summary import cost_table


def numbers(table):
    names, values = ([*column.cells] for column in table.columns)
    return {name: int(value.replace(",", "")) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize("depth", [1, 2])
def test_parameters_add_up(depth):
    model = PrimeNet(image_size=(16, 16), depth=depth)
    shown = numbers(cost_table(model))
    learners = [value for name, value in shown.items() if name.startswith("block") or name == "head"]
    assert len(learners) == len(model.network.loss_names)
    assert sum(learners) == shown["all"] == sum(p.numel() for p in model.parameters())


def test_routes_differ_by_the_convolutions_of_their_capsules():
    """Counted by hand: a convolution multiplies each of its weights once for each pixel it makes."""
    model = PrimeNet(kernel_sizes=(3, 7), size="paper")
    shown = numbers(cost_table(model))
    block = model.network.prime_blocks[0]
    _, height, width = block.out_shape
    by_hand = {
        name: height * width * sum(p.numel() for p in capsule.features.parameters() if p.dim() == 4)
        for name, capsule in block.capsules.items()
    }
    route3, route7 = (shown[f"multiply-adds per image, inference by block0.{name}"] for name in ("k3", "k7"))
    assert route7 - route3 == by_hand["k7"] - by_hand["k3"] > 0
    assert shown["multiply-adds per image, training step"] > 2 * route7 + by_hand["k3"]


def cells(table):
    names, values = ([*column.cells] for column in table.columns)
    return dict(zip(names, values, strict=True))


def test_a_cut_backbone_has_its_parts_and_what_its_local_classifiers_cost():
    """By hand: two dense layers of 64 x 32 and 32 x 10, and a local one of 32 x 10 behind the first."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    local = {"pooled": {"grid": 1}}
    table = cost_table(CutNet(layers, 1, (8, 8), 10, at=["3"], recipe="greedy", local_classifier=local))
    shown = cells(table)
    first, last, own = 64 * 32 + 32, 32 * 10 + 10, 32 * 10 + 10
    assert shown["part0"] == f"{first + own:,}"
    assert shown["head"] == f"{last:,}"
    assert shown["all"] == f"{first + last + own:,}"
    assert shown["local classifiers' share of parameters"] == f"{own / (first + last + own):.1%}"
    multiply_adds = 64 * 32 + 32 * 10, 32 * 10
    assert shown["local classifiers' share of multiply-adds, forward"] == f"{multiply_adds[1] / sum(multiply_adds):.1%}"
    assert shown["multiply-adds per image, inference"] == f"{multiply_adds[0]:,}"
    assert table.caption is None


def test_overlapping_parts_are_told_of_and_the_twin_has_no_local_classifiers():
    options = {"backbone_options": {"width": 4}, "parts": 2}
    assert "not strictly local" in cost_table(CutNet("resnet20", **options, recipe="overlap")).caption
    twin = cost_table(CutNet("resnet20", **options, local=False))
    assert twin.title == "CutNet of resnet20, images 3 x 32 x 32"
    assert [*cells(twin)][:2] == ["head", "all"]
    assert not any("local classifiers" in name for name in cells(twin))


def test_baselines_have_a_table_too():
    shown = cells(cost_table(CifarResNet20(1, (8, 8), 10)))
    assert {"head", "all", "multiply-adds per image, inference"} <= shown.keys()


def test_printed_when_a_fit_starts(silent, make_batches, loader, capsys):
    trainer = Trainer(**silent, fast_dev_run=True, callbacks=[CostSummary()])
    trainer.fit(PrimeNet(num_classes=3), loader(make_batches(1)))
    printed = capsys.readouterr().out
    assert "PrimeNet, images 1 x 8 x 8" in printed
    assert "inference by block0.k7" in printed
