"""Make a backbone of your own: Inception modules (Szegedy et al. 2015) as the capsules of a PrimeNet of two blocks.

    python examples/inception_capsules.py --epochs 10

A subclass with one method, ``configure_capsules``, is all. Anything that turns a block's input into a feature map can
be a capsule, as long as all capsules of a block give maps of one shape. Here each is GoogLeNet's module, whose widest
branch looks at 3x3, 5x5 or 7x7 pixels. The data are scikit-learn's digits; nothing is downloaded.
"""

import argparse
from collections.abc import Mapping, Sequence

from lightning import Trainer, seed_everything
from torchvision.models.googlenet import BasicConv2d, Inception

from primenet_lightning import Capsule, FlattenClassifier, PrimeNet
from primenet_lightning.datamodules import DigitsDataModule


def inception(in_channels: int, size: int) -> Inception:
    """Build torchvision's Inception module of 32 channels in all, its widest branch ``size`` x ``size``."""
    module = Inception(in_channels, ch1x1=8, ch3x3red=8, ch3x3=12, ch5x5red=4, ch5x5=8, pool_proj=4)
    # torchvision's third branch is 3x3 too, a slip that it keeps because its pretrained weights have it
    module.branch3[1] = BasicConv2d(4, 8, kernel_size=size, padding=size // 2)
    return module


class InceptionPrimeNet(PrimeNet):
    """PrimeNet whose capsules are Inception modules."""

    def configure_capsules(self, index: int, in_shape: tuple[int, int, int]) -> Mapping[str, Capsule]:
        """Build one capsule per scale, each with its own classifier; called once per block, with its input's shape."""
        in_channels, height, width = in_shape
        capsules: dict[str, Capsule] = {}
        for size in self.kernel_sizes:
            classifier = FlattenClassifier(32, (height, width), self.num_classes)
            capsules[f"i{size}"] = Capsule(inception(in_channels, size), classifier)
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
    model = InceptionPrimeNet(data.in_channels, data.image_size, depth=2, router="concatenate", lr=1e-3)
    trainer = Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    (results,) = trainer.test(model, data)
    return results["test/error"]


if __name__ == "__main__":
    main()
