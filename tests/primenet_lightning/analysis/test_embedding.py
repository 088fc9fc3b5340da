import torch

from primenet_lightning.analysis.embedding import separation


def test_separation_tells_classes_that_are_apart_from_those_that_are_not():
    labels = torch.arange(40) % 2
    noise = torch.randn(40, 3)
    apart = separation(noise + 50 * labels[:, None], labels)
    mixed = separation(noise, labels)
    assert apart["neighbour_accuracy"] == 1.0
    assert apart["silhouette"] > 0.9 > 0.2 > mixed["silhouette"]
    assert mixed["neighbour_accuracy"] < 0.8
    assert "silhouette" not in separation(noise, torch.zeros(40, dtype=torch.int64))
