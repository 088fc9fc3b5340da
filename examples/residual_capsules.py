"""Residual capsules: each learns what to add to the block's input, at its own scale; the paper's future work.

    python examples/residual_capsules.py --epochs 10

Of a residual block (He et al. 2016) the two convolutions have 3x3, 5x5 or 7x7 pixels, and the shortcut is a 1x1
convolution where the channels change. The data are scikit-learn's digits; nothing is downloaded.
"""

import argparse
from collections.abc import Mapping, Sequence

from lightning import Trainer, seed_everything
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from primenet_lightning import Capsule, FlattenClassifier, PrimeNet
from primenet_lightning.datamodules import DigitsDataModule


class Residual(nn.Module):
    """Two convolutions of ``size`` x ``size`` beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Conv2dNormActivation(in_channels, channels, size),
            Conv2dNormActivation(channels, channels, size, activation_layer=None),
        )
        self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the layers make of the map to the map."""
        total: Tensor = self.layers(x) + self.shortcut(x)
        return total.relu()


class ResidualPrimeNet(PrimeNet):
    """PrimeNet whose capsules are residual blocks."""

    def configure_capsules(self, index: int, in_shape: tuple[int, int, int]) -> Mapping[str, Capsule]:
        """Build one capsule per scale, each with its own classifier."""
        in_channels, height, width = in_shape
        capsules: dict[str, Capsule] = {}
        for size in self.kernel_sizes:
            classifier = FlattenClassifier(16, (height, width), self.num_classes)
            capsules[f"r{size}"] = Capsule(Residual(in_channels, 16, size), classifier)
        return capsules


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="train on so many images")
    args = parser.parse_args(argv)

    seed_everything(0)
    data = DigitsDataModule(limit_train=args.limit)
    # a block hands on all maps: routing by the least loss flips, which stacks do not like
    model = ResidualPrimeNet(data.in_channels, data.image_size, depth=2, router="concatenate", lr=1e-3)
    trainer = Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    (results,) = trainer.test(model, data)
    return results["test/error"]


if __name__ == "__main__":
    main()
