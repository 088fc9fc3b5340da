"""Cutting a model into parts that share its modules."""

import copy
import pickle
from typing import NamedTuple

import pytest
import small
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import get_model

from primenet_lightning.nn.cutting.cut import cut, pieces_of

MODELS = {"resnet": small.resnet, "densenet": small.densenet, "vit": small.vit, "swin": small.swin}
MODELS |= {"convnext": small.convnext}
SHAPE = (3, 32, 32)


def joined(parts, x):
    for part in parts:
        x = part(x)
    return x


class Residual(nn.Module):
    """Two blocks with shortcuts, a parameter and a buffer of its own, and functional dropout."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.shift = nn.Parameter(torch.ones(8))
        self.register_buffer("scale", torch.full((8,), 2.0))
        self.dropout = dropout

    def forward(self, x, mask=None):
        x = self.stem(x)
        x = x + self.first(x) * self.scale
        x = x + self.second(x) + self.shift
        if mask is not None:
            x = x * mask
        return self.head(functional.dropout(x, self.dropout, training=self.training))


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_the_model_and_learn_apart(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    keys = list(model.state_dict())
    for number in (2, 4):
        parts = cut(model, SHAPE, parts=number)
        assert len(parts) == number
        # together they are the model, to the last bit
        model.eval()
        x = torch.randn(2, *SHAPE)
        with torch.no_grad():
            assert torch.equal(joined(parts, x), model(x))
        # a parameter each, and nothing but the model's own
        owners = [id(parameter) for part in parts for parameter in part.parameters()]
        assert sorted(owners) == sorted(id(parameter) for parameter in model.parameters())
        # each one's loss reaches its own parameters, and no others
        for part in parts:
            y = part(x)
            y.square().mean().backward()
            reached = {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
            assert reached <= {id(parameter) for parameter in part.parameters()}
            assert len(reached) > 0.9 * len(list(part.parameters()))
            x = y.detach()
            model.zero_grad()
    assert list(model.state_dict()) == keys


def test_modes_of_the_model_reach_the_parts():
    torch.manual_seed(0)
    model = small.swin(stochastic_depth_prob=0.9, dropout=0.5)
    parts = cut(model, SHAPE, at=["features.2", "features.3"])
    x = torch.randn(4, 3, 32, 32)
    model.train()
    torch.manual_seed(1)
    whole = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(joined(parts, x), whole)
    assert not torch.equal(joined(parts, x), whole)  # other layers are dropped
    model.eval()
    assert torch.equal(joined(parts, x), joined(parts, x))


def test_functional_dropout_stays_alive_in_code_that_is_recorded():
    model = Residual(dropout=0.5)
    parts = cut(model, (6,), at=["second"])
    x = torch.randn(5, 6)
    torch.manual_seed(0)
    whole = model(x)
    torch.manual_seed(0)
    assert torch.equal(joined(parts, x), whole)
    model.eval()
    assert torch.equal(joined(parts, x), model(x))
    assert not torch.equal(whole, model(x))


def test_parameters_and_buffers_of_the_model_itself_go_to_the_part_that_reads_them():
    model = Residual()
    first, second = cut(model, (6,), at=["second"])
    assert [name for name, _ in first.body.named_parameters()] == [
        "stem.weight", "stem.bias", "first.weight", "first.bias",
    ]  # fmt: skip
    assert "shift" in dict(second.body.named_parameters())
    model.scale = torch.zeros(8)  # as a move to another device replaces it
    x = torch.randn(5, 6)
    assert torch.equal(first(x), model.stem(x))


def test_weights_trained_in_parts_are_the_models_own():
    model = small.resnet()
    before = copy.deepcopy(model.state_dict())
    parts = cut(model, (3, 32, 32), parts=2)
    optimizer = torch.optim.SGD(parts[1].parameters(), 0.1)
    parts[1](parts[0](torch.randn(2, 3, 32, 32)).detach()).sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "fc.weight" in changed
    assert "conv1.weight" not in changed


def test_a_plain_sequential_is_cut_too_and_in_place_layers_write_into_copies():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Dropout(0.5, True), nn.Linear(8, 3))
    x = torch.randn(2, 1, 4, 4)
    for name, later in (("2", nn.ReLU), ("3", nn.Dropout)):
        first, second = cut(model, (1, 4, 4), at=[name])
        assert isinstance(model[int(name)], later)
        features = first(x)
        before = features.clone()
        second(features.detach())
        assert torch.equal(features, before)
        features.sum().backward()  # what it saved is as it was


def test_copies_and_pickles_of_parts_are_of_a_copied_model():
    model = Residual().eval()
    parts = cut(model, (6,), at=["second"])
    x = torch.randn(5, 6)
    y = joined(parts, x)
    for copies in (copy.deepcopy(parts), pickle.loads(pickle.dumps(parts))):
        assert copies[0].model is copies[1].model
        assert copies[0].model is not model
        assert torch.equal(joined(copies, x), y)
        with torch.no_grad():
            copies[0].model.stem.weight.zero_()
        assert not torch.equal(joined(copies, x), y)
    assert torch.equal(joined(parts, x), y)


def test_a_copied_part_shares_nothing_with_the_model():
    model = Residual()
    _, second = cut(model, (6,), at=["second"])
    copied = second.copied(copy.deepcopy)
    x = torch.randn(5, 8)
    assert torch.equal(copied(x), second(x))
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}
    assert len(list(copied.parameters())) == len(list(second.parameters()))
    dropping = cut(Residual(dropout=0.5), (6,), at=["second"])[1].copied(copy.deepcopy)
    dropping.eval()
    assert torch.equal(dropping(x), dropping(x))
    dropping.train()
    assert not torch.equal(dropping(x), dropping(x))


def test_pieces_are_the_blocks_with_their_shapes():
    pieces = pieces_of(get_model("resnet18", num_classes=5), (3, 32, 32), named=["layer3.1"])
    assert [piece.part.name for piece in pieces] == [
        "", "layer1", "layer1.1", "layer2", "layer2.1", "layer3", "layer3.1", "layer4", "layer4.1", "fc",
    ]  # fmt: skip
    assert [piece.gives.shape for piece in pieces][-3:] == [(512, 1, 1), (512,), (5,)]


class TwoPaths(nn.Module):
    """Two tensors go side by side."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.left(x) + self.right(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.third.weight = self.first.weight

    def forward(self, x):
        return self.third(self.second(self.first(x)))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        if x.sum() > 0:
            x = self.first(x)
        return self.second(x)


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x) + torch.ones(4))


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        return self.second(x), x


def chain():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (chain(), {"at": ["6"]}, "at has '6', which is no module of Sequential; its modules are '0', '1', '2'"),
        (small.resnet(), {"at": ["layer9"]}, "no module of ThinResNet; did you mean 'layer"),
        (chain(), {"at": "2"}, r"at='2' is one name; give a list of names, \['2'\]"),
        (chain(), {"at": ["2", "2"]}, "at has '2' twice; name each module once"),
        (chain(), {"at": ["4", "2"]}, "at has '2' after '4', which runs later; name the modules in the order"),
        (chain(), {"at": ["0"]}, "at has '0', but nothing lies between it and the beginning of the model"),
        (small.resnet(), {"at": ["layer2", "layer2.0"]}, "'layer2.0', but nothing lies between it and 'layer2'"),
        (small.resnet(), {"at": ["layer2.0.bn1"]}, "2 values are used on both sides of it: the output of layer1"),
        (small.densenet(), {"at": ["features.denseblock1.denselayer2"]}, "2 values are used on both sides"),
        (TwoPaths(), {"at": ["right"]}, r"at has 'right', but 2 values are used on both sides of it: the images "
         r"\(shape \(batch, 4\)\), the output of left \(shape \(batch, 4\)\); cut where only one tensor goes on"),
        (Tied(), {"at": ["second"]}, "parameter third.weight is used on both sides of the cut at 'second'"),
        (Branching(), {"at": ["second"]}, "Branching's forward pass cannot be recorded: symbolically traced variables"),
        (Constant(), {"at": ["second"]}, "Constant's forward pass cannot be recorded: it makes a tensor of its own"),
        (TwoOutputs(), {"at": ["second"]}, "the model gives an output of type tuple, not one tensor of logits"),
        (chain(), {"at": ["2"], "shape": (5,)}, r"Sequential takes no images of shape \(5,\): .*; give images of the"),
        (chain(), {"parts": 4}, "parts=4 is too many: Sequential can be cut at 2 places, so into at most 3 parts"),
        (small.resnet(), {"at": ["layer2"], "shape": (1, 32, 32)}, "takes no images of shape .*expected input"),
        (chain(), {"at": [2]}, "at has 2, which is no module of Sequential"),
        (chain(), {"parts": 1.5}, "parts=1.5 must be a whole number of parts"),
        (nn.LSTM(4, 4), {"parts": 1}, "LSTM's forward pass cannot be recorded: symbolically traced"),
        (nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))), {"at": ["1"]}, "the model gives shape .batch, 2, 2."),
        (chain(), {"parts": 0}, "parts=0 must be at least 1 part"),
        (chain(), {}, r"at=\[\] and parts=None: give the names of the modules to cut at, or how many parts"),
        (chain(), {"at": ["2"], "parts": 2}, r"at=\['2'\] and parts=2: give the names"),
        (chain(), {"parts": 2, "balance": "flops"}, "balance='flops' is unknown; use 'multiply_adds', 'time'"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_said_in_a_sentence(model, options, sentence):
    shape = options.pop("shape", (4,) if sum(1 for _ in model.modules()) < 8 else SHAPE)
    keys = set(vars(model))
    with pytest.raises(ValueError, match=sentence) as caught:
        cut(model, shape, **options)
    assert "\n" not in str(caught.value)
    assert set(vars(model)) == keys


def test_one_part_is_the_whole_model():
    model = chain()
    (part,) = cut(model, (4,), parts=1)
    x = torch.randn(3, 4)
    assert torch.equal(part(x), model(x))


def test_a_container_that_is_never_called_is_refused_with_a_module_inside_it():
    class Row(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    with pytest.raises(ValueError, match=r"'blocks', which the forward pass of Row never calls; .* such as 'blocks.0'"):
        cut(Row(), (4,), at=["blocks"])
    assert len(cut(Row(), (4,), at=["blocks.1", "blocks.2"])) == 3


def test_models_that_give_a_named_tuple_in_training_are_refused():
    class Answer(NamedTuple):
        logits: torch.Tensor
        auxiliary: torch.Tensor

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.first(x)
            logits = self.second(x)
            return Answer(logits, x) if self.training else logits

    with pytest.raises(ValueError, match="the model gives an output of type Answer, not one tensor of logits"):
        cut(Auxiliary(), (4,), at=["second"])
