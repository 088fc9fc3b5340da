"""The recipes, each against its formula."""

import copy
import math

import pytest
import small
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.nn.cutting.classifiers import Place
from primenet_lightning.nn.cutting.cut import cut, pieces_of
from primenet_lightning.nn.cutting.features import Features
from primenet_lightning.nn.cutting.learning import Recipe, along
from primenet_lightning.nn.cutting.neighbours import Averaged, Overlapping
from primenet_lightning.nn.cutting.objectives import Classified, square
from primenet_lightning.nn.cutting.recipes import RECIPES, recipe

SHAPE = (3, 16, 16)
TARGET = torch.tensor([0, 1, 2, 3, 4, 0])


def place(part=0, parts=2, shape=(8, 4, 4)):
    return Place(part, parts, Features.of(shape, SHAPE), SHAPE, 5)


def log_probabilities(logits):
    """Independent of torch's losses."""
    return logits - logits.exp().sum(1, keepdim=True).log()


def cross_entropy(logits, target, smoothing=0.0):
    rows = log_probabilities(logits)
    soft = (1 - smoothing) * functional.one_hot(target, rows.shape[1]) + smoothing / rows.shape[1]
    return -(soft * rows).sum(1).mean()


def features(shape=(8, 4, 4)):
    torch.manual_seed(3)
    return torch.randn(6, *shape).requires_grad_()


@pytest.mark.parametrize("name", ["greedy", "dgl", "auglocal"])
def test_cross_entropy_of_a_local_classifier(name):
    objective = recipe(name).objective(place()).eval()
    loss, logits = objective(features(), TARGET)
    assert isinstance(objective, Classified)
    torch.testing.assert_close(logits, objective.classifier(features()))
    torch.testing.assert_close(loss, cross_entropy(logits, TARGET))


@pytest.mark.parametrize("name", ["greedy", "dgl", "auglocal"])
def test_targets_may_be_softer_early(name):
    chosen = recipe({name: {"label_smoothing": [0.3, 0.1]}})
    for part, smoothing in enumerate((0.3, 0.2, 0.1)):
        objective = chosen.objective(place(part, parts=4)).eval()
        loss, logits = objective(features(), TARGET)
        torch.testing.assert_close(loss, cross_entropy(logits, TARGET, smoothing))
    first = recipe("soft_targets").objective(place(0, parts=4))
    last = recipe("soft_targets").objective(place(2, parts=4))
    assert (first.loss.label_smoothing, last.loss.label_smoothing) == (0.2, 0.0)


@pytest.mark.parametrize(("shape", "projected"), [((8, 4, 4), True), ((9, 8), False)])
def test_predsim(shape, projected):
    objective = recipe("predsim").objective(place(shape=shape)).eval()
    x = features(shape)
    loss, logits = objective(x, TARGET)
    # its dense layer begins with zeros
    assert bool((logits == objective.classifier[-1][-1].bias).all())
    # similarity of the channels' deviations over space
    maps = x if len(shape) == 3 else x.transpose(1, 2)[..., None]
    if projected:
        maps = functional.conv2d(maps, objective.loss.projection.weight, padding=1)
    deviations = maps.flatten(2).std(2)
    deviations = deviations - deviations.mean(1, keepdim=True)
    labels = functional.one_hot(TARGET, 5).float()
    labels = labels - labels.mean(1, keepdim=True)
    alike = [functional.cosine_similarity(z[:, None], z[None], dim=2) for z in (deviations, labels)]
    similarity = (alike[0] - alike[1]).square().mean()
    torch.testing.assert_close(loss, 0.01 * cross_entropy(logits, TARGET) + 0.99 * similarity)


def test_predsims_dense_layer_sees_at_most_so_many_features():
    for channels, size, grid in ((64, 8, 5), (512, 4, 2), (2048, 4, 1), (4096, 2, 1), (8, 4, 4)):
        assert recipe("predsim").grid_at(place(shape=(channels, size, size))) == grid
        assert channels * grid**2 <= 2048 or grid == 1


@pytest.mark.parametrize("shape", [(8, 4, 4), (17, 8), (4, 4, 6)])
def test_infopro(shape):
    chosen = recipe({"infopro": {"mean": 0.4, "std": 0.25}})
    objective = chosen.objective(place(shape=shape)).eval()
    x, images = features(shape), torch.randn(6, *SHAPE)
    loss, logits = objective(x, TARGET, images)
    # the decoder, with sigmoid and the loss of probabilities
    maps = {(8, 4, 4): lambda: x, (4, 4, 6): lambda: x.permute(0, 3, 1, 2)}
    maps[17, 8] = lambda: x[:, 1:].transpose(1, 2).reshape(6, 8, 4, 4)
    large = nn.Upsample(SHAPE[1:], mode="bilinear", align_corners=True)(maps[shape]())
    pixels = (images * 0.25 + 0.4).clamp(0, 1)
    decoded = torch.sigmoid(objective.decoder(large))
    reconstruction = -(pixels * decoded.log() + (1 - pixels) * (1 - decoded).log()).mean()
    torch.testing.assert_close(loss, 5 * reconstruction + 0.5 * cross_entropy(logits, TARGET))
    assert [layer.out_channels for layer in objective.decoder if isinstance(layer, nn.Conv2d)] == [12, 3]


def test_infopros_weights_go_from_the_first_local_part_to_the_last():
    chosen = recipe({"infopro": {"reconstruction": [5, 0.5], "prediction": [0, 1]}})
    weights = [chosen.objective(place(part, parts=16)) for part in (0, 7, 14)]
    assert [one.reconstruction for one in weights] == [5, 2.75, 0.5]
    assert [one.prediction for one in weights] == [0, 0.5, 1]


def test_tokens_without_a_class_token_are_a_square_too():
    x = torch.arange(9.0).reshape(1, 1, 9, 1)
    assert torch.equal(square(x), x.reshape(1, 1, 3, 3))
    assert torch.equal(square(torch.cat([x[:, :, :1], x], 2)), x.reshape(1, 1, 3, 3))


def man(momentum=0.9):
    torch.manual_seed(0)
    pieces = pieces_of(small.resnet(), (3, 32, 32), named=["layer2"])
    begin = [piece.part.name for piece in pieces].index("layer2")
    there = Place(0, 2, pieces[begin - 1].gives, (3, 32, 32), 5, pieces[begin:-1])
    return recipe({"man": {"momentum": momentum}}).objective(there), pieces[begin].part


def test_man_mixes_a_learned_and_an_averaged_copy_of_the_next_block():
    objective, block = man()
    assert isinstance(objective, Averaged)
    assert block.name == "layer2"
    x = torch.randn(6, 8, 8, 8, requires_grad=True)
    with torch.no_grad():
        objective.scale.fill_(0.7)
        for parameter in objective.learned.parameters():
            parameter.mul_(1.1)
    layers = [copied.body.get_submodule("layer2.0") for copied in (objective.learned, objective.averaged)]
    objective.eval()
    seen = 0.7 * layers[0](x) + 1.3 * layers[1](x)
    loss, logits = objective(x, TARGET)
    torch.testing.assert_close(logits, objective.objective.classifier(seen))
    torch.testing.assert_close(loss, cross_entropy(logits, TARGET))
    # the gradient goes through the averaged copy, and reaches neither its weights nor the block
    loss.backward()
    assert all(parameter.grad is None for parameter in [*block.parameters(), *objective.averaged.parameters()])
    assert all(parameter.grad is not None for parameter in objective.learned.parameters())
    assert objective.scale.grad is not None


def test_mans_average_follows_the_block_and_not_its_statistics():
    objective, block = man(momentum=0.9)
    names = [name for name, _ in block.named_parameters()]
    average = {name: value.clone() for name, value in objective.averaged.named_parameters()}
    assert list(average) == names
    block.body.get_submodule("layer2.0").bn1.running_mean += 5
    for step in range(3):
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(step + 1)  # as an optimizer's step changes it
        objective(torch.randn(6, 8, 8, 8), TARGET)
        for name, parameter in block.named_parameters():
            average[name] = 0.9 * average[name] + 0.1 * parameter
    for name, value in objective.averaged.named_parameters():
        torch.testing.assert_close(value, average[name])
    statistics = objective.averaged.body.get_submodule("layer2.0").bn1
    assert statistics.num_batches_tracked == 3
    assert bool((statistics.running_mean < 4).all())
    objective.eval()
    objective(torch.randn(6, 8, 8, 8), TARGET)  # an evaluation changes nothing
    for name, value in objective.averaged.named_parameters():
        torch.testing.assert_close(value, average[name])


def test_man_without_a_block_that_follows_is_its_classifier():
    assert isinstance(recipe("man").objective(place()), Classified)


def overlapping(parts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    pieces = cut(model, (4,), at=["2", "4"][: parts - 1])
    gives = [Features.of(piece.out_shape, (4,)) for piece in pieces]
    there = Place(0, parts, gives[0], (4,), 5, next_part=pieces[1], next_features=gives[1])
    chosen = recipe({"overlap": {"cascade": 0.75, "classifier": "pooled"}})
    return model, pieces, chosen.objective(there)


def test_overlap_trains_the_next_part_too():
    model, parts, objective = overlapping(3)
    assert isinstance(objective, Overlapping)
    x = torch.randn(6, 4)
    target = TARGET
    loss, logits = objective(parts[0](x), target)
    dense = [layer for layer in objective.modules() if isinstance(layer, nn.Linear)]
    first = (x @ model[0].weight.T + model[0].bias).relu()
    second = (first @ model[2].weight.T + model[2].bias).relu()
    own = first @ dense[0].weight.T + dense[0].bias
    onward = second @ dense[1].weight.T + dense[1].bias
    torch.testing.assert_close(logits, own)
    torch.testing.assert_close(loss, 0.25 * cross_entropy(own, target) + 0.75 * cross_entropy(onward, target))
    loss.backward()
    assert model[0].weight.grad.any()
    assert model[2].weight.grad.any()
    assert model[4].weight.grad is None


def test_overlap_before_the_last_part_has_that_ones_logits():
    model, parts, objective = overlapping(2)
    x = torch.randn(6, 4)
    loss, logits = objective(parts[0](x), TARGET)
    expected = 0.25 * cross_entropy(logits, TARGET) + 0.75 * cross_entropy(model(x), TARGET)
    torch.testing.assert_close(loss, expected)


def test_auglocals_classifiers_become_shallower():
    chosen = recipe({"auglocal": {"depth": 6}})
    assert [chosen.depth_at(place(part, parts=5)) for part in range(4)] == [6, 5, 4, 3]
    assert recipe("auglocal").depth_at(place(parts=2)) == 2
    assert recipe({"auglocal": {"depth": 1}}).depth_at(place(2, parts=4)) == 1


def test_a_course_goes_in_line():
    assert [along([4, 0], place(part, parts=5)) for part in range(4)] == pytest.approx([4, 8 / 3, 4 / 3, 0])
    assert along([4, 0], place(0, parts=2)) == 4
    assert along(0.1, place(0, parts=2)) == 0.1


def test_every_recipe_tells_its_source_and_whether_it_is_strictly_local():
    for name, kind in RECIPES.items():
        assert kind.strictly_local == (name != "overlap")
        assert any(str(year) in kind.__doc__ for year in range(2018, 2027)) or name == "soft_targets"


class Own(Recipe):
    def objective(self, place):
        return Classified(nn.Linear(8, 5))


@pytest.mark.parametrize(
    ("choice", "classifier", "sentence"),
    [
        ("nothing", None, "recipe='nothing' is unknown; use one of 'greedy', 'soft_targets', 'dgl'"),
        ({"dgl": {"depth": 2}}, None, "recipe has 'depth', which recipe='dgl' does not take; it takes"),
        (3, None, "recipe=3 must be a name, or {name: {option: value}}"),
        ({}, None, "recipe={} has 0 names; give one"),
        ({"dgl": {}, "man": {}}, None, "has 2 names; give one"),
        ("auglocal", "pooled", "local_classifier='pooled' cannot be had with recipe='auglocal', which has its own"),
        (Own(), "pooled", "local_classifier='pooled': say so in the recipe, Own, itself"),
        ({"man": {"momentum": 1}}, None, "momentum=1 must be at least 0 and below 1"),
        ({"overlap": {"cascade": 2}}, None, "cascade=2 must be from 0"),
        ({"auglocal": {"pyramid": 0}}, None, "pyramid=0 must be above 0"),
        ({"auglocal": {"depth": 0}}, None, "depth=0 must be at least 1"),
        ({"predsim": {"features": 0}}, None, "features=0 must be at least 1"),
    ],
)  # fmt: skip
def test_impossible_recipes_are_refused(choice, classifier, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe(choice, classifier)


def test_courses_of_three_numbers_are_refused():
    with pytest.raises(ValueError, match=r"\[1, 2, 3\] must be one number, or two: of the first and of the last"):
        along([1, 2, 3], place())


def test_recipes_of_ones_own_and_other_classifiers():
    own = Own()
    assert recipe(own) is own
    assert math.isclose(float(own.objective(place())(torch.zeros(6, 8), TARGET).loss.detach()), 1.6, abs_tol=0.3)
    assert recipe("greedy", "mlp").classifier == "mlp"
    assert copy.deepcopy(own).strictly_local
