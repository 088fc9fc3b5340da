import copy
import math

import pytest
import torch
from formulas import double, similarity_by_pairs
from torch.nn import functional

from primenet_lightning.nn.losses import (
    CrossEntropy,
    LocalLoss,
    PredSim,
    SimilarityMatching,
    cross_entropy,
    local_loss,
    summed_cross_entropy,
)
from primenet_lightning.nn.similarity import similarity_loss

TARGET = torch.tensor([0, 3, 2, 2, 1, 0])
LOSSES = {
    "cross_entropy": {},
    "label_smoothing": {},
    "similarity": {},
    "predsim": {"label_smoothing": 0.2},
}


def smoothed_by_hand(logits, target, smoothing):
    soft = torch.full_like(logits, smoothing / logits.shape[1])
    soft[range(len(target)), target] += 1 - smoothing
    return -(soft * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()


def test_cross_entropy_is_the_closed_form():
    logits, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 2, 2, 1])
    expected = (logits.exp().sum(1).log() - logits[range(5), target]).mean()
    torch.testing.assert_close(cross_entropy(logits, target), expected)


def test_summed_cross_entropy_weighs_all_answers_alike():
    answers = [double(6, 4).requires_grad_() for _ in range(3)]
    loss = summed_cross_entropy(answers, TARGET)
    expected = sum((a.exp().sum(1).log() - a[torch.arange(6), TARGET]).sum().item() / 6 for a in answers)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    for each in answers:  # softmax minus one-hot
        gradient = (each.softmax(1) - functional.one_hot(TARGET, 4)).detach() / 6
        torch.testing.assert_close(each.grad, gradient)


def test_bfloat16_logits_give_a_float32_loss():
    logits, target = torch.randn(64, 10).bfloat16(), torch.randint(10, (64,))
    loss = cross_entropy(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.float(), target), rtol=0, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_is_cross_entropy_with_softened_targets(smoothing):
    logits = double(6, 4)
    loss = CrossEntropy(smoothing)(double(6, 8, 3, 3), logits, TARGET)
    torch.testing.assert_close(loss, smoothed_by_hand(logits, TARGET, smoothing))


def test_similarity_matching_and_predsim_see_the_features_through_a_convolution():
    features, logits = double(6, 5, 4, 4), double(6, 4)
    for loss, similar, predicted in (
        (SimilarityMatching(5), 1, 1),
        (PredSim(5), 0.99, 0.01),
        (PredSim(5, weight=0.3), 0.3, 0.7),
    ):
        weight = loss.double().projection.weight
        assert [parameter.shape for parameter in loss.parameters()] == [(5, 5, 3, 3)]
        columns = functional.unfold(features, 3, padding=1)
        seen = (weight.reshape(5, 45) @ columns).reshape(6, 5, 4, 4)
        expected = similar * similarity_by_pairs(seen, TARGET, 4) + predicted * smoothed_by_hand(logits, TARGET, 0)
        torch.testing.assert_close(loss(features, logits, TARGET), expected)


def test_without_projection_the_features_are_compared_as_they_are():
    features, logits = double(6, 5, 4, 4), double(6, 4)
    loss = PredSim(5, weight=0.5, projected=False, label_smoothing=0.2)
    assert not list(loss.parameters())
    expected = similarity_by_pairs(features, TARGET, 4) / 2 + smoothed_by_hand(logits, TARGET, 0.2) / 2
    torch.testing.assert_close(loss(features, logits, TARGET), expected)
    matching = SimilarityMatching(5, projected=False)
    torch.testing.assert_close(
        matching(features, logits, TARGET), similarity_by_pairs(features, TARGET, 4) + cross_entropy(logits, TARGET)
    )


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("size", [(2, 3), (1, 1)])
def test_gradients_are_finite_differences(kind, size):
    torch.manual_seed(0)
    loss = local_loss(kind, 4, LOSSES[kind]).double()
    inputs = [double(3, 4, *size).requires_grad_(), double(3, 4).requires_grad_(), *loss.parameters()]
    assert torch.autograd.gradcheck(lambda features, logits, *_: loss(features, logits, TARGET[:3]), inputs)


def test_no_gradient_reaches_the_features_through_the_classifier_of_similarity_matching():
    """Which gives the loss its logits of the detached map; predsim's classifier does teach the features."""
    assert [name for name in LOSSES if local_loss(name, 4).detaches_features] == ["similarity"]
    features = double(6, 4, 3, 3).requires_grad_()
    dense = torch.nn.Linear(36, 4).double()
    loss = SimilarityMatching(4, projected=False)
    loss(features, dense(features.detach().flatten(1)), TARGET).backward()
    alone = features.detach().clone().requires_grad_()
    similarity_by_pairs(alone, TARGET, 4).backward()
    torch.testing.assert_close(features.grad, alone.grad)
    assert dense.weight.grad.any()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("constant", [False, True])
def test_one_image_is_like_itself(kind, constant):
    loss = local_loss(kind, 4)
    features = (torch.ones if constant else torch.randn)(1, 4, 1, 1).requires_grad_()
    logits = torch.zeros(1, 4, requires_grad=True)
    value = loss(features, logits, TARGET[:1])
    value.backward()
    expected = {"similarity": math.log(4), "predsim": 0.01 * math.log(4)}.get(kind, math.log(4))
    assert value.item() == pytest.approx(expected, rel=1e-4)
    for parameter in loss.parameters():
        assert parameter.grad.abs().max() < 1e-5
    assert features.grad is None or features.grad.abs().max() < 1e-5


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_gives_a_float32_loss_near_the_exact_one(kind, autocast):
    """Whether autocast makes it so or the whole network is."""
    torch.manual_seed(0)
    loss = local_loss(kind, 16)
    features, logits = torch.randn(32, 16, 6, 6).bfloat16(), torch.randn(32, 10).bfloat16()
    target = torch.randint(10, (32,))
    exact = copy.deepcopy(loss).double()(features.double(), logits.double(), target)
    loss = loss if autocast else loss.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(features, logits, target)
        alone = similarity_loss(features, target, 10)
    assert value.dtype == alone.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=2e-3, atol=0)
    torch.testing.assert_close(alone, similarity_loss(features.float(), target, 10), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CrossEntropy(1.0), "label_smoothing=1.0 must be at least 0 and below 1"),
        (lambda: CrossEntropy(-0.1), "label_smoothing=-0.1 must be"),
        (lambda: PredSim(4, weight=1.1), "weight=1.1 must be from 0"),
        (lambda: PredSim(4, weight=math.nan), "weight=nan must be from 0"),
        (lambda: PredSim(4, label_smoothing=2), "label_smoothing=2 must be"),
        (lambda: SimilarityMatching(0, projected=False), "channels=0 must be at least 1"),
        (
            lambda: local_loss("hinge", 4),
            "local_loss='hinge' is unknown; use one of 'cross_entropy', 'label_smoothing', 'similarity', 'predsim'",
        ),
        (
            lambda: local_loss("predsim", 4, {"beta": 0.9}),
            "local_loss_options has 'beta', which local_loss='predsim' does not take; it takes weight, proj",
        ),
        (
            lambda: local_loss("similarity", 4, {"weight": 1}),
            "which local_loss='similarity' does not take; it takes pr",
        ),
        (lambda: local_loss("cross_entropy", 4, {"label_smoothing": "a"}), "do not fit local_loss='cross_entropy'"),
    ],
)
def test_bad_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_losses_by_name():
    assert {kind: type(local_loss(kind, 4)) for kind in LOSSES} == {
        "cross_entropy": CrossEntropy,
        "label_smoothing": CrossEntropy,
        "similarity": SimilarityMatching,
        "predsim": PredSim,
    }
    assert local_loss("cross_entropy", 4).label_smoothing == 0
    assert local_loss("label_smoothing", 4).label_smoothing == 0.1
    assert local_loss("label_smoothing", 4, {"label_smoothing": 0.3}).label_smoothing == 0.3
    predsim = local_loss("predsim", 4, {"weight": 0.5, "projected": False, "label_smoothing": 0.2})
    assert (predsim.weight, predsim.prediction.label_smoothing) == (0.5, 0.2)
    assert not list(predsim.parameters())
    with pytest.raises(TypeError, match="abstract"):
        LocalLoss()
