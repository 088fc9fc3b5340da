"""Dynamic cost: the mean over images as they really leave."""

import pytest
import torch

from primenet_lightning.nn.exits.costs import ExitRecord, spent


def test_error_and_cost_by_a_loop():
    generator = torch.Generator().manual_seed(3)
    record, logits, target = ExitRecord(), torch.randn(3, 30, 4, generator=generator), torch.arange(30) % 4
    for rows in (slice(0, 20), slice(20, 30)):
        record.add(list(logits[:, rows]), target[rows])
    costs, thresholds, paid, errors, shares = [3, 10, 40], [0.6, 0.5, 9.0], 0, 0, [0, 0, 0]
    for row in range(30):
        place = 0
        while place < 2 and logits[place, row].softmax(0).max() < thresholds[place]:
            place += 1
        paid += costs[place]
        shares[place] += 1
        errors += int(logits[place, row].argmax() != target[row])
    result = spent(record.confidence, record.wrong, costs, thresholds)
    assert result.multiply_adds == pytest.approx(paid / 30)
    assert result.error == pytest.approx(100 * errors / 30)
    assert result.shares == pytest.approx([count / 30 for count in shares])
    assert all(shares)


def test_records_are_joined_and_emptied():
    one, other = ExitRecord(), ExitRecord()
    assert one.is_empty
    one.add([torch.zeros(2, 3)], torch.tensor([0, 1]))
    other.add([torch.ones(1, 3)], torch.tensor([0]))
    one.extend(other)
    assert one.wrong.tolist() == [[False, True, False]]
    one.reset()
    assert one.is_empty
    assert not other.is_empty


def test_other_costs_than_exits_are_refused():
    with pytest.raises(ValueError, match=r"costs=\[1\] are 1 for 2 exits"):
        spent(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool), [1], [0.5, 0.5])
