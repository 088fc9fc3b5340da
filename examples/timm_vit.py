"""Train a vision transformer of timm in two parts that learn locally.

    pip install timm
    python examples/timm_vit.py --epochs 20

Each part's classifier is made of fresh copies of the transformer blocks that follow (the recipe ``auglocal``). Patches
have 4x4 pixels here, since the images are small: scikit-learn's digits, made larger; nothing is downloaded.
"""

import argparse
from collections.abc import Sequence

from lightning import Trainer, seed_everything
from torch.optim import AdamW

from primenet_lightning import CutNet
from primenet_lightning.datamodules import DigitsDataModule


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="any vision transformer of timm")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, help="train on so many images")
    args = parser.parse_args(argv)

    seed_everything(0)
    data = DigitsDataModule(resize=32, batch_size=50, limit_train=args.limit)
    try:
        model = CutNet(
            f"timm/{args.model}",
            data.in_channels,
            data.image_size,
            recipe="auglocal",
            backbone_options={"patch_size": 4},
            optimizer=AdamW,
            schedule="one_cycle",
        )
    except ValueError as error:  # no timm, or no such model
        parser.error(str(error))
    trainer = Trainer(max_epochs=args.epochs, logger=False, enable_checkpointing=False)
    trainer.fit(model, data)
    (results,) = trainer.test(model, data)
    return results["test/error"]


if __name__ == "__main__":
    main()
