import pytest

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import ConfusionAndErrors, FeatureTSNE
from primenet_lightning.commands.attached import looking
from primenet_lightning.runs.folder import RunFolder


def kinds(folder, classes, given=()):
    model = PrimeNet(1, (8, 8), classes, depth=1, kernel_sizes=(3,), channels=2, projection_channels=2, head_channels=2)
    return {type(callback) for callback in looking(model, RunFolder(folder), True, given)}


def test_what_the_command_attaches_by_itself_stops_no_fit_of_many_classes(tmp_path):
    assert {FeatureTSNE, ConfusionAndErrors} <= kinds(tmp_path, 1000)
    with pytest.warns(UserWarning, match="FeatureTSNE is left out: the data have 1,001 classes, .* at most 1,000"):
        assert ConfusionAndErrors in kinds(tmp_path, 1001)
    with pytest.warns(UserWarning, match="ConfusionAndErrors is left out: the data have 32,769 classes"):
        assert not {FeatureTSNE, ConfusionAndErrors} & kinds(tmp_path, 2**15 + 1)


@pytest.mark.filterwarnings("error")
def test_what_the_user_has_given_is_not_made_again(tmp_path):
    assert FeatureTSNE not in kinds(tmp_path, 2000, [FeatureTSNE(samples=2000)])
