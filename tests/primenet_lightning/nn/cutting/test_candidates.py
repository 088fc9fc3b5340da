"""Where a model may be cut automatically."""

import small
import torch
from torch import nn
from torchvision.models import get_model

from primenet_lightning.nn.cutting.candidates import candidates, is_row


def names(model, shape):
    return [place.name for place in candidates(model, shape)]


def test_a_dense_network_is_cut_between_its_dense_blocks():
    places = names(small.densenet(), (3, 32, 32))
    assert "features.transition1" in places  # where one tensor goes on
    assert not [name for name in places if "denselayer" in name]  # where all earlier ones do


def test_a_transformer_is_cut_between_its_blocks():
    places = names(small.vit(), (3, 32, 32))
    blocks = [f"encoder.layers.encoder_layer_{index}" for index in range(1, 4)]
    assert places == ["encoder", "encoder.layers", *blocks, "heads"]


def test_every_place_is_crossed_by_one_tensor_of_the_shape_told():
    model = get_model("shufflenet_v2_x0_5").eval()
    shapes = {}
    for name, module in model.named_modules():

        def take_note(module, inputs, name=name):
            shapes.setdefault(name, inputs[0].shape[1:])

        module.register_forward_pre_hook(take_note)
    model(torch.zeros(2, 3, 64, 64))
    for place in candidates(model, (3, 64, 64)):
        if place.name != "fc":  # its input is the mean over the map
            assert place.shape == tuple(shapes[place.name])


def test_parts_do_not_begin_with_norms_or_with_what_learns_nothing():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), nn.Linear(4, 2)
    )
    assert names(model, (4,)) == ["3", "4"]
    assert [place.name for place in candidates(model, (4,), named=["2"])] == ["2", "3", "4"]


def test_a_parameter_used_twice_allows_no_place_between_its_uses():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    model[3].weight = model[1].weight
    assert names(model, (4,)) == ["1", "4"]


def test_rows_are_looked_into_and_blocks_are_not():
    model = small.resnet()
    assert is_row(model.layer1)
    assert not is_row(model.layer1[0])
    assert is_row(small.convnext().features)


def test_a_row_whose_code_cannot_be_recorded_stays_one_piece():
    class Moody(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    model = nn.Sequential(nn.Linear(4, 4), Moody(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))
    assert names(model, (4,)) == ["1", "2"]
