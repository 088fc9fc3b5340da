"""The network that is left for prediction, of every kind of network."""

import copy

from primenet_lightning.nn.cutting.network import CutNetwork, UncutNetwork
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.predicting import only_routed
from primenet_lightning.nn.stages import Route


def predicting(network: StagedNetwork, choices: Route | None = None, keep_classifiers: bool = False) -> StagedNetwork:
    """Copy a network without what serves training only: capsules that are not routed, and local classifiers.

    Args:
        network: Which is left as it was.
        choices: Whose maps go on, one index a stage; None is as the network predicts now.
        keep_classifiers: Whether local classifiers stay on the way that images take, as exits.

    Returns:
        A network whose label-free answers are the same, in evaluation mode.

    Raises:
        ValueError: If the network routes by labels, or has no route yet.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 3))
        >>> network = CutNetwork(model, (1, 8, 8), at=["2"])
        >>> [len(each.state_dict()) for each in (network, predicting(network))]
        [6, 4]
    """
    if isinstance(network, PrimeNetwork):
        return only_routed(network, network.choices() if choices is None else choices, keep_classifiers)
    copied = copy.deepcopy(network).eval()
    if isinstance(copied, CutNetwork) and not keep_classifiers:
        return UncutNetwork(copied.backbone, copied.in_shape).eval()
    return copied
