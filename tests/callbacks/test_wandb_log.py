import pytest
from lightning.pytorch.loggers import WandbLogger

from primenet_lightning.callbacks.wandb_log import PatientWandbLogger


@pytest.mark.parametrize(
    ("method", "args"), [("log_metrics", ({"a": 1.0}, 3)), ("log_hyperparams", ({"a": 1},)), ("finalize", ("success",))]
)
def test_what_wandb_raises_becomes_one_warning(method, args, monkeypatch, tmp_path, recwarn):
    def broken(self, *args, **kwargs):
        raise BrokenPipeError(f"its service has died, {tmp_path}")

    monkeypatch.setattr(WandbLogger, method, broken)
    logger = PatientWandbLogger(mode="disabled", save_dir=tmp_path)
    for _ in range(3):
        getattr(logger, method)(*args)
    sentences = [str(w.message) for w in recwarn if "training goes on without" in str(w.message)]
    assert len(sentences) == 1
    assert "its service has died" in sentences[0]
