"""Train torchvision's resnet18 stage by stage, without a gradient from one stage to the one before.

    python examples/resnet_backbone.py --epochs 10               # downloads CIFAR-10 into ./data
    python examples/resnet_backbone.py --epochs 3 --limit 2000   # a first look
    python examples/resnet_backbone.py --pretrained              # begins with ImageNet's weights, 45 MB to download

Three blocks of one capsule each have resnet18's stem and first stage, its second and its third stage as features, each
with a small classifier that teaches it. The head is the fourth stage and the last layer. With one capsule per block
there is nothing to route: what is left of PrimeNet is local learning, which any chain of modules can have in this way.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lightning import Trainer, seed_everything
from torch import nn
from torch.optim import AdamW
from torchvision.models import ResNet18_Weights, resnet18

from primenet_lightning import Capsule, PooledClassifier, PrimeNet, PrimeNetwork
from primenet_lightning.datamodules import CIFAR10DataModule


class ResNetPrimeNet(PrimeNet):
    """A PrimeNet of resnet18's stages, for images of three channels and at least 32x32 pixels.

    Args:
        pretrained: Whether the stages begin with the weights that torchvision has for ImageNet. They were trained on
            larger images, standardized by channel; here they see pixels from -1 to 1.
        depth: How many stages are blocks; the next one is the head's.
        pool_every: No pools between the blocks, since the stages have strides of their own.
        **options: What else `PrimeNet` takes.
    """

    def __init__(
        self, pretrained: bool = False, depth: int = 3, pool_every: tuple[int, ...] = (), **options: Any
    ) -> None:
        super().__init__(depth=depth, pool_every=pool_every, **options)

    def configure_network(self) -> PrimeNetwork:
        """Build resnet18, whose stages the blocks and the head then take, one after the other."""
        # PrimeNet's constructor calls this, when an argument of ours is in hparams and not yet on self
        net = resnet18(weights=ResNet18_Weights.DEFAULT if self.hparams["pretrained"] else None)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.stages_left = [stem, net.layer2, net.layer3, net.layer4]
        return super().configure_network()

    def configure_capsules(self, index: int, in_shape: tuple[int, int, int]) -> Mapping[str, Capsule]:
        """Take one stage, and build its classifier, which sees the map averaged to 2x2 pixels."""
        classifier = PooledClassifier(64 * 2**index, self.num_classes, grid=2)
        return {"stage": Capsule(self.stages_left.pop(0), classifier)}

    def configure_projection(self, index: int, in_shape: tuple[int, int, int], map_size: tuple[int, int]) -> None:
        """Leave the projection out: each stage wants the channels of the one before and no more."""

    def configure_head(self, in_shape: tuple[int, int, int]) -> nn.Module:
        """Take the next stage, the fourth, and end as resnet18 does: by average pooling and a dense layer."""
        return nn.Sequential(self.stages_left.pop(0), PooledClassifier(64 * 2**self.depth, self.num_classes, grid=1))


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data (default: PRIMENET_DATA, or ./data)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="train on so many images")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--pretrained", action="store_true")
    args = parser.parse_args(argv)

    seed_everything(0)
    data = CIFAR10DataModule(root=args.data, limit_train=args.limit, batch_size=args.batch_size)
    adam = partial(AdamW, lr=1e-3)
    model = ResNetPrimeNet(
        args.pretrained, in_channels=3, image_size=data.image_size, capsule_optimizer=adam, head_optimizer=adam
    )
    trainer = Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, default_root_dir="runs/resnet_backbone"
    )
    trainer.fit(model, data)
    (results,) = trainer.test(model, data, verbose=False)
    for index in range(model.depth):
        print(f"stage {index + 1}, by its own classifier: {results[f'test/error/block{index}.stage']:.2f} % test error")
    print(f"stage 4, the head: {results['test/error']:.2f} % test error")
    return results["test/error"]


if __name__ == "__main__":
    main()
