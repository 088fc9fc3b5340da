"""Train PrimeNet on MNIST with Lightning's Trainer alone, and test the best checkpoint once.

    python examples/train_mnist.py                               # downloads MNIST into ./data
    python examples/train_mnist.py --epochs 2 --limit 2000       # a first look, in seconds

What the command line ``primenet fit`` does for you is here in plain sight: data, model, callbacks, fit, and one test
of the checkpoint that did best on the validation split. Checkpoints, curves and figures are in the folder it prints.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from primenet_lightning import PaperAdam, PrimeNet
from primenet_lightning.callbacks import CapsuleLossCurves, LossProgressBar, RoutingMonitor
from primenet_lightning.datamodules import MNISTDataModule


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data (default: PRIMENET_DATA, or ./data)")
    parser.add_argument("--out", default="runs", help="a new folder for the run is made in there")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="train on so many images, each class as often as in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="the paper's is 2e-4, for 150 epochs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    seed_everything(args.seed)
    data = MNISTDataModule(root=args.data, batch_size=args.batch_size, limit_train=args.limit, seed=args.seed)
    # one optimizer per capsule, and one for the head, each made by a call of these
    adam = partial(PaperAdam, lr=args.lr)
    model = PrimeNet(data.in_channels, data.image_size, data.num_classes, capsule_optimizer=adam, head_optimizer=adam)
    best = ModelCheckpoint(monitor="val/error", filename="best")
    trainer = Trainer(
        max_epochs=args.epochs,
        logger=CSVLogger(args.out, name="train_mnist"),
        callbacks=[best, CapsuleLossCurves(), RoutingMonitor(), LossProgressBar()],
        log_every_n_steps=10,
    )
    trainer.fit(model, data)
    # weights_only: a checkpoint holds nothing but tensors and plain values, and none that does is let in
    (results,) = trainer.test(model, data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    error = results["test/error"]
    print(f"{error:.2f} % test error, by {best.best_model_path}")
    print(f"The figures are in {trainer.log_dir}/figures")
    return error


if __name__ == "__main__":
    main()
