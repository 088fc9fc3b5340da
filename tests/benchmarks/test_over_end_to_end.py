"""Stacks and cut networks over their end-to-end twins: the networks are what the figures say."""

import over_end_to_end
import stacks
import torch

from primenet_lightning.nn.prime.routers import ROUTERS


def test_both_sides_begin_with_the_same_weights_in_all_that_predicts():
    for pair in (stacks.stack(1, 2, in_shape=(3, 8, 8)), stacks.cut_resnet(2, 8, 4, (3, 8, 8))):
        local, twin = pair.local.state_dict(), pair.twin.state_dict()
        names = {name.replace("model.", "backbone.", 1) if name.startswith("model.") else name: name for name in twin}
        assert names
        for name, of_twin in names.items():
            assert torch.equal(local[name], twin[of_twin]), name


def test_there_is_a_case_for_every_depth_number_of_capsules_and_router():
    cases = over_end_to_end.cases((3, 8, 8))
    for router in ROUTERS:
        case = cases["stack3x3" if router == "least_loss" else f"stack3x3_{router}"]
        assert case.args[:3] == (3, 3, router)
    assert {block.router.name for block in cases["stack1x2"]().local.prime_blocks} == {"least_loss"}
    for depth in (1, 3, 6):
        for capsules in (1, 2, 3):
            assert f"stack{depth}x{capsules}" in cases
    pair = cases["stack1x2_committed"]()
    assert [len(block.capsules) for block in pair.local.prime_blocks] == [1]
    assert [len(block.capsules) for block in pair.twin.prime_blocks] == [2]
    assert len(cases["resnet20_in4"]().local.loss_names) == 4


def test_a_case_is_measured_and_its_bound_has_its_name(capsys):
    figures = over_end_to_end.measure("stack1x1", rounds=1, batch=4, in_shape=(3, 8, 8))
    assert figures["stack1x1_over_end_to_end"] > 0
    assert "stack1x1" in capsys.readouterr().out
    bounds = {bound.figure: bound.limit for bound in over_end_to_end.bounds()}
    assert bounds["stack1x1_over_end_to_end"] == 1.0
    assert bounds["stack6x3_committed_over_end_to_end"] == 0.8
    assert len(bounds) == 9
