"""What `import primenet_lightning` offers."""

import pytest

import primenet_lightning
from primenet_lightning.analysis import features, probe


def test_all_that_is_named_is_there_also_what_is_imported_later():
    assert sorted(primenet_lightning.__all__) == sorted(set(primenet_lightning.__all__))
    assert all(hasattr(primenet_lightning, name) for name in primenet_lightning.__all__)
    assert set(primenet_lightning.__all__) <= set(dir(primenet_lightning))
    assert primenet_lightning.fit_probe is probe.fit_probe
    assert primenet_lightning.feature_extractor is features.feature_extractor
    assert primenet_lightning.extract_features is features.extract_features
    with pytest.raises(AttributeError, match="module 'primenet_lightning' has no attribute 'nothing'"):
        _ = primenet_lightning.nothing
