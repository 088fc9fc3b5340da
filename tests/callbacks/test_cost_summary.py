import pytest
from lightning.pytorch import Trainer

from primenet_lightning import PrimeNet
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


def test_printed_when_a_fit_starts(silent, make_batches, loader, capsys):
    trainer = Trainer(**silent, fast_dev_run=True, callbacks=[CostSummary()])
    trainer.fit(PrimeNet(num_classes=3), loader(make_batches(1)))
    printed = capsys.readouterr().out
    assert "PrimeNet, images 1 x 8 x 8" in printed
    assert "inference by block0.k7" in printed
