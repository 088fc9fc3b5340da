"""A cut model as a network of the engine."""

import copy

import pytest
import small
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

from primenet_lightning import CompositeOptimizer, Rhythm, StageRunner
from primenet_lightning.nn.cutting.network import CutNetwork

SHAPE = (3, 32, 32)
AT = {
    "resnet": ["layer2", "layer3"],
    "vit": ["encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_2"],
    "densenet": ["features.transition1", "features.transition2"],
}
RECIPES = ["greedy", "soft_targets", "dgl", "auglocal", "predsim", "infopro", "man", "overlap"]


def batches(count=3, size=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, *SHAPE, generator=generator), torch.randint(5, (size,), generator=generator))
        for _ in range(count)
    ]


def run(network, rhythm=None):
    optimizers = {name: SGD(part, 0.01, momentum=0.9) for name, part in network.learners().items()}
    runner = StageRunner(network, CompositeOptimizer(optimizers), rhythm)
    return [runner.step(x, target) for x, target in batches()]


def learn_one_batch(network, steps=6):
    optimizers = {name: Adam(part, 2e-3) for name, part in network.learners().items()}
    runner = StageRunner(network, CompositeOptimizer(optimizers))
    (batch,) = batches(1)
    return [runner.step(*batch) for _ in range(steps)]


def test_training_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    network = CutNetwork(small.resnet(), SHAPE, at=["layer2", "layer4"])
    model, heads = copy.deepcopy(network.backbone), copy.deepcopy(network.objectives)
    records = run(network)
    # the same, written by hand
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1)
    middle = nn.Sequential(model.layer2, model.layer3)
    end = nn.Sequential(model.layer4, model.avgpool, nn.Flatten(), model.fc)
    parts = [nn.Sequential(stem, heads[0].classifier), nn.Sequential(middle, heads[1].classifier), end]
    optimizers = [SGD(part.parameters(), 0.01, momentum=0.9) for part in parts]
    for (x, target), record in zip(batches(), records, strict=True):
        for part, optimizer, name in zip(parts, optimizers, ["part0", "part1", "head"], strict=True):
            logits = part(x)
            loss = functional.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            assert record.values[name] == pytest.approx(loss.item(), rel=1e-5)
            if part is not end:
                x = part[0](x).detach()
                # the second run of the features was for this test alone
                for layer in part[0].modules():
                    if isinstance(layer, nn.BatchNorm2d):
                        layer.num_batches_tracked -= 1
            optimizer.step()
    for name, parameter in network.backbone.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["resnet", "vit", "densenet"])
def test_every_recipe_trains_and_leaves_an_ordinary_model(recipe, name):
    torch.manual_seed(0)
    model = getattr(small, name)()
    keys = list(model.state_dict())
    network = CutNetwork(model, SHAPE, at=AT[name], recipe=recipe)
    assert network.strictly_local == (recipe != "overlap")
    learners = network.learners()
    assert list(learners) == network.loss_names == network.classifier_names == ["part0", "part1", "head"]
    owned = [id(parameter) for parameters in learners.values() for parameter in parameters]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    before = copy.deepcopy(model.state_dict())
    records = learn_one_batch(network)
    assert sum(records[-1].values.values()) < sum(records[0].values.values())
    assert records[0].answers.shape == (3, 6)
    unchanged = [key for key, value in model.state_dict().items() if torch.equal(value, before[key])]
    assert [key for key in unchanged if "weight" in key and "bn" not in key] == []
    assert list(model.state_dict()) == keys
    assert [key for key in network.state_dict() if key.startswith("backbone.")] == [f"backbone.{key}" for key in keys]
    network.eval()
    assert not model.training
    x, target = batches(1)[0]
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
        evaluation = network.evaluate(x, target)
        torch.testing.assert_close(evaluation.logits["head"], model(x))
    assert list(evaluation.losses) == ["part0", "part1", "head"]


@pytest.mark.parametrize("recipe", ["greedy", "dgl", "auglocal", "predsim", "infopro", "man"])
def test_no_gradient_crosses_a_cut(recipe):
    torch.manual_seed(0)
    network = CutNetwork(small.resnet(), SHAPE, at=AT["resnet"], recipe=recipe)
    x, target = batches(1)[0]
    learners = network.learners()
    for stage in network.stages:
        (output,) = stage.run_learners(x, target)
        output.loss.backward()
        reached = {id(p) for p in network.parameters() if p.grad is not None}
        assert reached <= {id(p) for p in learners[stage.name]}
        assert not output.feature_map.requires_grad
        x = stage.hand_on(x, [output], 0)
        network.zero_grad()


@pytest.mark.parametrize("recipe", ["man", "overlap", "infopro"])
def test_all_rhythms_give_the_same_numbers(recipe):
    torch.manual_seed(0)
    first = CutNetwork(small.resnet(), SHAPE, at=AT["resnet"], recipe=recipe)
    others = [copy.deepcopy(first) for _ in range(2)]
    values = [record.values for record in run(first)]
    for network, rhythm in zip(others, [Rhythm("learner", "stage", "stage"), Rhythm("batch")], strict=True):
        for record, expected in zip(run(network, rhythm), values, strict=True):
            assert record.values == pytest.approx(expected, rel=1e-3)


def test_copies_are_networks_of_their_own():
    network = CutNetwork(small.resnet(), SHAPE, at=["layer3"], recipe="man")
    copied = copy.deepcopy(network)
    assert copied.stages[0].part.model is copied.backbone
    run(copied)
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.manual_seed(0)
    again = CutNetwork(small.resnet(), SHAPE, at=["layer3"], recipe="man")
    again.load_state_dict(copied.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(again.eval()(x), copied.eval()(x))


def test_the_backbone_has_the_same_first_weights_whatever_it_learns_from():
    models = []
    for recipe in ("greedy", "dgl", "man"):
        torch.manual_seed(7)
        models.append(CutNetwork(small.resnet(), SHAPE, at=["layer3"], recipe=recipe).backbone)
    for model in models[1:]:
        assert all(map(torch.equal, models[0].state_dict().values(), model.state_dict().values()))


def test_frozen_modules_neither_learn_nor_change():
    torch.manual_seed(0)
    network = CutNetwork(small.resnet(), SHAPE, at=["layer3"], frozen=["conv1", "bn1", "layer1"]).train()
    before = copy.deepcopy(network.backbone.state_dict())
    run(network)
    frozen = ("conv1.", "bn1.", "layer1.")
    for key, value in network.backbone.state_dict().items():
        if key.startswith(frozen):
            assert torch.equal(value, before[key])
        elif "weight" in key:
            assert not torch.equal(value, before[key])
    names = {name for name, p in network.backbone.named_parameters() if not p.requires_grad}
    assert names == {name for name, _ in network.backbone.named_parameters() if name.startswith(frozen)}
    assert not network.backbone.layer1.training
    assert network.backbone.layer2.training


def test_a_part_that_is_frozen_has_a_classifier_that_learns():
    network = CutNetwork(small.resnet(), SHAPE, at=["layer1"], frozen=["conv1", "bn1"])
    before = network.objectives[0].classifier[-1][-1].weight.clone()
    run(network)
    assert not torch.equal(network.objectives[0].classifier[-1][-1].weight, before)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_balanced(recipe):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)), nn.Flatten(), nn.Linear(256, 5))
    state = torch.get_rng_state()
    for balance in ("multiply_adds", "activations"):
        network = CutNetwork(model, (4, 8, 8), parts=3, balance=balance, recipe=recipe)
        assert len(network.stages) == 3
        assert not any(parameter.is_meta for parameter in network.parameters())
        torch.set_rng_state(state)
    names = [stage.part.name for stage in network.stages[1:]]
    again = CutNetwork(model, (4, 8, 8), at=names, recipe=recipe)
    # what was built to be measured has drawn no random numbers
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))


def test_the_share_of_local_classifiers():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    network = CutNetwork(model, (10,), at=["2"], recipe="greedy")
    share = network.local_share()  # one dense layer of 20 x 5 and its bias
    assert share.parameters == pytest.approx(105 / (220 + 105 + 105))
    assert share.multiply_adds == pytest.approx(100 / (200 + 100 + 100))
    # the cascade runs the next part once more
    overlapping = CutNetwork(model, (10,), at=["2"], recipe={"overlap": {"classifier": "pooled"}})
    assert overlapping.local_share().multiply_adds == pytest.approx(200 / 500)
    assert not any(parameter.is_meta for parameter in overlapping.parameters())


def test_local_classifiers_count_when_parts_are_balanced():
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8)), nn.Linear(64, 5))
    begin = {}
    for hidden in (0, 2):
        options = {"mlp": {"convolutions": 0, "hidden_layers": hidden, "width": 64}}
        network = CutNetwork(model, (64,), parts=2, recipe="dgl", local_classifier=options)
        begin[hidden] = network.stages[1].part.name
    # two hidden layers cost as much as two of the model's
    assert begin == {0: "4", 2: "3"}


def test_parameters_that_are_not_used_belong_to_the_head():
    model = small.resnet()
    model.unused = nn.Linear(3, 3)
    network = CutNetwork(model, SHAPE, at=["layer2"])
    owned = [parameter for parameters in network.learners().values() for parameter in parameters]
    assert any(parameter is model.unused.weight for parameter in owned)
    run(network)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"at=\[\] and parts=None: give the names of the modules to cut at, or how many parts"),
        ({"at": ["layer2"], "parts": 2}, r"at=\['layer2'\] and parts=2"),
        ({"parts": 99}, "parts=99 is too many: ThinResNet can be cut at 7 places, so into at most 8 parts"),
        ({"at": ["layer7"]}, "at has 'layer7', which is no module of ThinResNet; did you mean"),
        ({"parts": 2, "frozen": ["layer7"]}, "frozen has 'layer7', which is no module of ThinResNet; did you mean"),
        ({"parts": 2, "recipe": "none"}, "recipe='none' is unknown"),
        ({"parts": 2, "balance": "memory"}, "balance='memory' is unknown"),
    ],
)
def test_impossible_networks_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CutNetwork(small.resnet(), SHAPE, **options)


def test_images_of_another_size_are_refused():
    network = CutNetwork(small.vit(), SHAPE, parts=2)
    with pytest.raises(
        ValueError, match=r"x has shape \(2, 3, 64, 64\), but this network was built for \(batch, 3, 32"
    ):
        network(torch.zeros(2, 3, 64, 64))
    with pytest.raises(
        ValueError, match=r"VisionTransformer takes no images of shape \(3, 64, 64\): Wrong image height"
    ):
        CutNetwork(small.vit(), (3, 64, 64), parts=2)


class LooksAtNumbers(nn.Module):
    def forward(self, x):
        return x if float(x.detach().sum()) > 0 else -x


@pytest.mark.parametrize("places", [dict(parts=2), dict(at=["2"])])
def test_a_layer_that_looks_at_numbers_is_cut_as_any_other(places):
    """Costs are worked out from shapes alone where that can be; here whole copies are run."""

    def model(layer):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), layer, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))

    plain, looking = (CutNetwork(model(layer), (3, 2, 2), **places) for layer in (nn.Identity(), LooksAtNumbers()))
    assert [stage.part.name for stage in looking.stages] == [stage.part.name for stage in plain.stages]
    assert looking.local_share() == plain.local_share()
