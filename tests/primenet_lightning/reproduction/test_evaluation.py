import math

import pytest
import torch

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.paper_figures import figure_maps, sample_of
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.reproduction._evaluation import Scores, all_scores, routing_errors


def by_hand(verdicts, choose):
    """Error in % of a choice of capsule, image by image, in plain Python."""
    wrong = 0
    for i, label in enumerate(verdicts.labels.tolist()):
        scores = verdicts.heads[choose(i), i].tolist()
        wrong += scores.index(max(scores)) != label
    return 100 * wrong / len(verdicts.labels)


def loss(verdicts, k, i):
    scores = verdicts.capsules[k, i].tolist()
    return math.log(sum(map(math.exp, scores))) - scores[int(verdicts.labels[i])]


def entropy(verdicts, k, i):
    powers = [math.exp(score) for score in verdicts.capsules[k, i].tolist()]
    return -sum(p / sum(powers) * math.log(p / sum(powers)) for p in powers)


def test_errors_of_all_routings_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 3, 23, 4, generator=generator)
    v = Scores(scores[0], scores[1], torch.randint(4, (23,), generator=generator))
    found = routing_errors(v, 1, ["k3", "k5", "k7"], batch=5)

    def batch_choice(i):
        rows = range(i // 5 * 5, min(23, i // 5 * 5 + 5))
        return min(range(3), key=lambda k: sum(loss(v, k, j) for j in rows))

    expected = {
        "majority": by_hand(v, lambda i: 1),
        **{f"fixed k{2 * k + 3}": by_hand(v, lambda i, k=k: k) for k in range(3)},
        "random": sum(by_hand(v, lambda i, k=k: k) for k in range(3)) / 3,
        "min_entropy": by_hand(v, lambda i: min(range(3), key=lambda k: entropy(v, k, i))),
        "oracle per batch": by_hand(v, batch_choice),
        "oracle per sample": by_hand(v, lambda i: min(range(3), key=lambda k: loss(v, k, i))),
    }
    for which, choose in (("batch", batch_choice), ("sample", lambda i: min(range(3), key=lambda k: loss(v, k, i)))):
        own = v._replace(heads=v.capsules)
        expected[f"oracle per {which}, own verdict"] = by_hand(own, choose)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert set(found) - set(expected) == {"vote", "mean of heads"}


def test_labels_are_worth_something_to_the_oracle_alone():
    right, wrong = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0])
    capsules = torch.stack([torch.stack([right, wrong]), torch.stack([wrong, right])])  # each is right on one image
    found = routing_errors(Scores(capsules, capsules, torch.tensor([0, 0])), 0, ["a", "b"])
    assert found["oracle per sample"] == 0
    assert found["majority"] == found["fixed b"] == found["random"] == 50


def test_verdicts_are_those_of_the_network_image_by_image():
    data = DigitsDataModule()
    data.setup("fit")
    model = PrimeNet(1, (8, 8), 10, reduce_channels=2, channels=4, projection_channels=2, head_channels=8).eval()
    found = all_scores(model, data, data.test_dataset)
    images, labels = data.test_dataset[torch.arange(7)]
    with torch.inference_mode():
        heads = torch.stack([model.network(data.normalize(images), route=(k,)) for k in range(3)])
        capsule = model.network.prime_blocks[0].in_order[2](data.normalize(images))[1]
    assert found.heads.shape == found.capsules.shape == (3, len(data.test_dataset), 10)
    assert torch.allclose(found.heads[:, :7], heads, atol=1e-5)
    assert torch.equal(found.labels[:7], labels)
    assert torch.allclose(found.capsules[2, :7], capsule, atol=1e-5)
    arrays = figure_maps(model, data, rows=2)
    assert arrays["labels"].tolist() == [0, 1]
    assert arrays["maps"].shape == (2, 3, 4, 8, 8)
    assert (arrays["least_loss"] == arrays["losses"].argmin(1)).all()
    assert arrays["pixels"].shape == (2, 8, 8)
    counts = torch.bincount(sample_of(data, 50)[1])
    assert counts.tolist() == [5] * 10
