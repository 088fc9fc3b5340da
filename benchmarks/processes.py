"""Two processes with a thread each against one process with two threads: ``Trainer.fit`` on MNIST, `compact`.

    python benchmarks/processes.py [--root DIR] [--steps N] [--rounds N]

Both sides take the same global batches of 200; two processes share them and sum their gradients over gloo. The sides
take turns, each in fresh processes; starting them, and their first steps, are not timed. No bound: which side wins is
the machine's. The last line is one JSON object.
"""

import argparse
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from timing import conclude, machine, ratio, spread

from primenet_lightning import PrimeNet
from primenet_lightning.datamodules import MNISTDataModule

BATCH = 200
WARM_UP = 20


class Clock(Callback):
    """Times the steps after the first ones."""

    seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start, or look."""
        if trainer.global_step == WARM_UP:
            self.start = time.perf_counter()
        if trainer.global_step == trainer.max_steps:
            self.seconds = time.perf_counter() - self.start


def train(rank: int, size: int, port: int, threads: int, root: str, steps: int) -> float:
    """Train as one of several processes.

    Returns:
        Seconds a step.
    """
    # be one of them, as torchrun's workers are
    if size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            GROUP_RANK="0",
            WORLD_SIZE=str(size),
            LOCAL_WORLD_SIZE=str(size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="benchmark",
        )
        if sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # train, quietly
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data, clock = MNISTDataModule(root=root, batch_size=BATCH), Clock()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="cpu",
            devices=size,
            strategy="ddp" if size > 1 else "auto",
            max_epochs=-1,
            max_steps=WARM_UP + steps,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            default_root_dir=folder,
            callbacks=[clock],
        ).fit(PrimeNet(1, (28, 28), 10), data)
    return clock.seconds / steps


def run(size: int, threads: int, root: str, steps: int) -> float:
    """Train in so many fresh processes; seconds per step."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with ProcessPoolExecutor(size, mp_context=multiprocessing.get_context("spawn")) as pool:
        ranks = [pool.submit(train, rank, size, port, threads, root, steps) for rank in range(size)]
        return max(rank.result() for rank in ranks)


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("PRIMENET_DATA", "data"), help="Folder of MNIST.")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sides = {"one_process_two_threads": (1, 2), "two_processes_one_thread": (2, 1), "one_process_one_thread": (1, 1)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (size, threads) in sides.items():
            times[name].append(run(size, threads, options.root, options.steps))
    figures: dict[str, float | str] = {}
    for name, seconds in times.items():
        figures[f"{name}_ms"] = 1000 * spread(seconds).median
        figures[f"{name}_images_per_second"] = BATCH / spread(seconds).median
        milliseconds = [1000 * second for second in seconds]
        print(f"{name:>24}: {spread(milliseconds)} ms a step")
    for name in ("two_processes_one_thread", "one_process_one_thread"):
        over = ratio(times["one_process_two_threads"], times[name])
        figures[f"{name}_speed_over_two_threads"] = over.median
        print(f"{name}: {over} times as fast as one process with two threads")
    conclude(figures | {"device": machine()}, [])


if __name__ == "__main__":
    main()
