"""Train torchvision's resnet18 in four parts that learn locally: no gradient goes from one part to the one before.

    python examples/resnet_backbone.py --epochs 5
    python examples/resnet_backbone.py --pretrained   # begins with ImageNet's weights, 45 MB to download

``CutNet`` finds out where to cut, and gives each part but the last a small classifier that teaches it. The model's own
modules are trained: ``model.backbone`` is torchvision's resnet18 afterwards. The data are scikit-learn's digits, made
larger; nothing else is downloaded.
"""

import argparse
from collections.abc import Sequence

from lightning import Trainer, seed_everything

from primenet_lightning import CutNet
from primenet_lightning.datamodules import DigitsDataModule


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, help="train on so many images")
    parser.add_argument("--pretrained", action="store_true")
    args = parser.parse_args(argv)

    seed_everything(0)
    data = DigitsDataModule(resize=32, batch_size=50, limit_train=args.limit)
    model = CutNet("resnet18", data.in_channels, data.image_size, parts=4, pretrained=args.pretrained, lr=1e-3)
    trainer = Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    (results,) = trainer.test(model, data)  # of each part's own classifier, and of the head
    return results["test/error"]


if __name__ == "__main__":
    main()
