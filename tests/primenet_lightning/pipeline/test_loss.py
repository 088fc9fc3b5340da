"""A process of a pipeline that is killed."""

import os
import pickle
import signal
import time

import pytest
from lightning.pytorch import Callback
from ranks import Ranks
from tiny import TinyData, make_model, make_trainer


class Kill(Callback):
    def __init__(self, rank):
        self.rank = rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == self.rank and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder, devices, killed):
    trainer = make_trainer(folder, [Kill(killed)], strategy="local_pipeline", devices=devices, max_epochs=100)
    trainer.fit(make_model(depth=devices, pool_every=9), TinyData(batch_size=20))


@pytest.mark.parametrize("killed", [0, 1])
def test_all_end_and_one_says_so(tmp_path, killed):
    """Rank 0 has the last stages; where it is lost, the process before it says so."""
    row = Ranks(3)
    try:
        for pipe in row.pipes:
            pipe.send_bytes(pickle.dumps((__file__, "fit", (tmp_path, 3, killed))))
        row.processes[killed].join(60)
        killed_at = time.monotonic()
        speaker = 1 if killed == 0 else 0
        assert row.pipes[speaker].poll(20)
        error, _ = pickle.loads(row.pipes[speaker].recv_bytes())
        assert f"process {killed} of the pipeline, which had " in error
        assert "has ended, and with it all others" in error
        (other,) = {0, 1, 2} - {killed, speaker}
        row.processes[other].join(20)
        assert row.processes[other].exitcode == 1
        assert time.monotonic() - killed_at < 20
    finally:
        row.stop()
