import random

import numpy as np
import torch

from primenet_lightning.training.resuming import get_random_state, set_random_state


def draw():
    return torch.rand(3).tolist(), np.random.randn(3).tolist(), [random.random(), random.gauss(0, 1)]


def test_all_three_generators_go_on_where_they_were(tmp_path):
    random.gauss(0, 1), np.random.randn()  # both now hold the second of a pair
    state = get_random_state()
    expected = draw()
    torch.save(state, tmp_path / "state")
    draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected
