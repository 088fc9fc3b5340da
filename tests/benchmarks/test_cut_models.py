"""The command that says which models can be cut."""

import json
from pathlib import Path

import small
import torch
from ranks import load
from torch import nn

from primenet_lightning import cut

benchmark = load(str(Path(__file__).parents[2] / "benchmarks" / "cut_models.py"), "main").__globals__


def test_models_are_cut_looked_at_and_shown(capsys):
    benchmark["main"](["squeezenet1_1", "no_such_model", "--parts", "2", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["squeezenet1_1: as uncut", lines[1]]
    assert "| SqueezeNet | squeezenet1_1 | features." in "\n".join(lines)
    assert lines[-2].startswith("- no_such_model is refused: backbone='no_such_model' is unknown")
    assert json.loads(lines[-1]) == {"models": 1, "families": 1, "with_faults": 0, "refused": 1}


def test_faults_are_seen():
    model = small.resnet()
    parts = cut(model, (3, 32, 32), at=["layer3"])
    x = torch.randn(2, 3, 32, 32)
    assert benchmark["faults_of"](model, parts, x) == []

    class Whole(nn.Module):  # a first part that learns everything, and a second that gives something else
        def forward(self, x):
            return model(x) + 1

    faults = benchmark["faults_of"](model, [Whole(), nn.Linear(5, 5)], x)
    assert [fault.partition(":")[0] for fault in faults[:2]] == ["output in evaluation", "output in training"]
    assert "the loss of part 0 reaches others" in faults
