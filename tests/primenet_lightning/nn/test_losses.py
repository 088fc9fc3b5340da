import copy
import math

import numpy
import pytest
import torch
from torch.nn import functional

from primenet_lightning.nn.losses import (
    CrossEntropy,
    LocalLoss,
    PredSim,
    SimilarityMatching,
    cross_entropy,
    local_loss,
    similarity_loss,
    summed_cross_entropy,
)

TARGET = torch.tensor([0, 3, 2, 2, 1, 0])
LOSSES = {
    "cross_entropy": {},
    "label_smoothing": {},
    "similarity": {},
    "predsim": {"label_smoothing": 0.2},
}


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def similarity_by_pairs(features, target, num_classes):
    """A loop over pairs; one-hot targets, torch's own standard deviation and cosine."""

    def cosine(a, b):
        return functional.cosine_similarity(a - a.mean(), b - b.mean(), dim=0)

    vectors = features.std((2, 3)) if features[0, 0].numel() > 1 and features.shape[1] > 3 else features.flatten(1)
    labels = functional.one_hot(target, num_classes).double()
    pairs = [(i, j) for i in range(len(target)) for j in range(len(target))]
    errors = [(cosine(vectors[i], vectors[j]) - cosine(labels[i], labels[j])) ** 2 for i, j in pairs]
    return sum(errors) / len(errors)


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


@pytest.mark.parametrize("shape", [(5, 3, 4), (4, 1, 2), (7, 1, 1), (3, 4, 4), (2, 1, 3)])
@pytest.mark.parametrize("num_classes", [4, 10])
def test_similarity_is_the_loop_over_pairs_of_images(shape, num_classes):
    """Deviations over space; of maps of one pixel, or three channels and fewer, all values."""
    features = double(6, *shape)
    expected = similarity_by_pairs(features, TARGET, num_classes)
    torch.testing.assert_close(similarity_loss(features, TARGET, num_classes), expected, rtol=1e-12, atol=1e-12)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(similarity_loss(channels_last, TARGET, num_classes), expected)


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


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e4])
@pytest.mark.parametrize("size", [(5, 5), (1, 1)])
@pytest.mark.parametrize("channels", [2, 5])
def test_constant_maps_are_like_nothing_and_get_no_gradient(value, size, channels):
    features = torch.randn(6, channels, *size)
    features[1] = value
    features.requires_grad_()
    loss = similarity_loss(features, TARGET, 4)
    rest = [0, 2, 3, 4, 5]
    # five pairs with image 1 in either order, all of other classes, and the one with itself
    expected = (25 * similarity_by_pairs(features[rest].detach().double(), TARGET[rest], 4) + 10 / 9 + 1) / 36
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(loss, features)
    assert not gradient[1].any()
    assert gradient[rest].isfinite().all()
    assert gradient.abs().max() < 10


def test_a_constant_channel_is_constant_whatever_its_value_rounds_to():
    features = torch.randn(6, 5, 7, 7)
    features[:, 2] = 0.1
    features.requires_grad_()
    loss = similarity_loss(features, TARGET, 4)
    torch.testing.assert_close(loss.double(), similarity_by_pairs(features.double(), TARGET, 4), rtol=1e-5, atol=0)
    assert not torch.autograd.grad(loss, features)[0][:, 2].any()


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


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_features_does_not_matter(scale):
    features = torch.randn(6, 5, 4, 4)
    torch.testing.assert_close(similarity_loss(features * scale, TARGET, 4), similarity_loss(features, TARGET, 4))


@pytest.mark.parametrize("scale", [1e-21, 1e-30])
@pytest.mark.parametrize("size", [(4, 4), (1, 1)])
def test_features_whose_squares_underflow_are_constant(scale, size):
    features = (torch.randn(6, 5, *size) * scale).requires_grad_()
    loss = similarity_loss(features, TARGET, 4)
    same = TARGET[:, None] == TARGET
    torch.testing.assert_close(loss, torch.where(same, 1.0, 1 / 9).mean())
    assert not torch.autograd.grad(loss, features)[0].any()


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


def test_similarity_alone_sorts_features_by_class():
    torch.manual_seed(0)
    features = torch.randn(6, 5, 3, 3, requires_grad=True)
    optimizer = torch.optim.Adam([features], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        similarity_loss(features, TARGET, 4).backward()
        optimizer.step()
    cosines = torch.from_numpy(numpy.corrcoef(features.detach().std((2, 3))))
    same = TARGET[:, None] == TARGET
    torch.testing.assert_close(cosines, torch.where(same, 1.0, -1 / 3).double(), atol=0.02, rtol=0)


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
