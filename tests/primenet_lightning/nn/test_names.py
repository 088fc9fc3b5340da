import pytest

from primenet_lightning import PrimeNet
from primenet_lightning.nn.names import HEAD, LearnerName, learners_of, stages_of


@pytest.mark.parametrize("name", ["block0.k3", "block12.gate", "layer2", "head", "stem.conv.3"])
def test_a_name_taken_apart_and_joined_is_the_name(name):
    assert str(LearnerName.parse(name)) == name


def test_a_learner_in_a_foreign_model_has_no_stage():
    assert str(LearnerName("", "k3")) == "k3"


def test_names_of_a_network_are_those_of_its_stages():
    network = PrimeNet(image_size=(16, 16), depth=2).network
    stages = stages_of(network.loss_names)
    assert stages == ["block0", "block1", HEAD]
    learners = [learners_of(stage, network.loss_names) for stage in stages]
    assert [name for names in learners for name in names] == network.loss_names
    for of_block, capsules in zip(learners, network.capsule_names, strict=False):
        assert of_block[:3] == capsules
    assert [LearnerName.parse(name).short for name in capsules] == ["k3", "k5", "k7"]
    assert learners[-1] == [HEAD]
