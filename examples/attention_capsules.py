"""Attention capsules: each weighs its channels by what the whole map shows; the paper's future work.

    python examples/attention_capsules.py --epochs 10

Behind a convolution of 3x3, 5x5 or 7x7 pixels stands torchvision's squeeze-and-excitation (Hu et al. 2018): the map is
averaged, and two small layers say from 0 to 1 how much of each channel goes on. The data are scikit-learn's digits;
nothing is downloaded.
"""

import argparse
from collections.abc import Mapping, Sequence

from lightning import Trainer, seed_everything
from torch import nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from primenet_lightning import Capsule, FlattenClassifier, PrimeNet
from primenet_lightning.datamodules import DigitsDataModule


class AttentionPrimeNet(PrimeNet):
    """PrimeNet whose capsules weigh their channels."""

    def configure_capsules(self, index: int, in_shape: tuple[int, int, int]) -> Mapping[str, Capsule]:
        """Build one capsule per scale, each with its own classifier."""
        in_channels, height, width = in_shape
        capsules: dict[str, Capsule] = {}
        for size in self.kernel_sizes:
            features = nn.Sequential(Conv2dNormActivation(in_channels, 16, size), SqueezeExcitation(16, 4))
            capsules[f"a{size}"] = Capsule(features, FlattenClassifier(16, (height, width), self.num_classes))
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
    model = AttentionPrimeNet(data.in_channels, data.image_size, depth=2, router="concatenate", lr=1e-3)
    trainer = Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    (results,) = trainer.test(model, data)
    return results["test/error"]


if __name__ == "__main__":
    main()
