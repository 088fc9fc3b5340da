"""Train on images of your own, which here are drawn on the spot: discs, squares, crosses and rings in noise.

    python examples/own_dataset.py --epochs 15

A data set is a subclass of ``ImageDataModule`` that names its classes and gives four arrays: uint8 images, in any of
the usual layouts, and whole numbers as labels, for training and for the test. The rest is there already: a stratified
validation split, normalization, shuffling, shares for several devices, and the names in figures and predictions.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning import Trainer, seed_everything

from primenet_lightning import PaperAdam, PrimeNet
from primenet_lightning.datamodules import ImageDataModule

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class ShapesDataModule(ImageDataModule):
    """Four shapes of different sizes, places and contrasts, grey, 16x16.

    Args:
        count: Images to draw; a fifth more are drawn for the test.
        **kwargs: Those of `ImageDataModule`.
    """

    name = "shapes"
    class_names = ("disc", "square", "cross", "ring")
    num_classes, in_channels, image_size = 4, 1, (16, 16)

    def __init__(self, count: int = 2000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def load_arrays(self) -> tuple[Images, Labels, Images, Labels]:
        """Draw; your own would read files here, which `prepare_data` may have downloaded."""
        return *draw(self.count, seed=0), *draw(self.count // 5, seed=1)


def draw(count: int, seed: int) -> tuple[Images, Labels]:
    """Draw images, (count, 16, 16), with labels, (count,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    radius, y, x, contrast = rng.uniform([3, 6, 6, 60], [6, 10, 10, 180], (count, 4)).T[..., None, None]
    down, across = np.abs(np.arange(16)[:, None] - y), np.abs(np.arange(16) - x)
    distance, rim = np.hypot(down, across), np.maximum(down, across)
    inside = np.stack(
        [
            distance < radius,
            rim < radius,
            (rim < radius) & (np.minimum(down, across) < 1.5),
            np.abs(distance - radius) < 1,
        ]
    )[labels, np.arange(count)]
    pixels = 40 + contrast * inside + rng.normal(0, 25, (count, 16, 16))
    return pixels.clip(0, 255).astype(np.uint8), labels


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--count", type=int, default=2000, help="images to draw")
    args = parser.parse_args(argv)

    seed_everything(0)
    data = ShapesDataModule(args.count, batch_size=50, normalization="standardize")
    adam = partial(PaperAdam, lr=1e-3)
    model = PrimeNet(data.in_channels, data.image_size, data.num_classes, capsule_optimizer=adam, head_optimizer=adam)
    trainer = Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, default_root_dir="runs/own_dataset"
    )
    trainer.fit(model, data)
    (results,) = trainer.test(model, data, verbose=False)
    print(f"{results['test/error']:.2f} % test error; guessing has {100 - 100 / data.num_classes:.0f} %")
    return results["test/error"]


if __name__ == "__main__":
    main()
