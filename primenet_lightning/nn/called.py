"""What a training step calls: modules that can be compiled, or captured as CUDA graphs, by themselves."""

from torch import nn

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.twin import EndToEndNetwork


def called_modules(network: StagedNetwork) -> list[nn.Module]:
    """List what the stages of a network call in a training step.

    Args:
        network: Any.

    Returns:
        Capsules, projections and heads, or the parts of a cut network and their local classifiers.

    Example:
        >>> from primenet_lightning import PrimeNetwork, architecture
        >>> network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
        >>> [type(module).__name__ for module in called_modules(network)]
        ['ConvCapsule', 'ConvCapsule', 'ConvCapsule', 'Projection', 'ClassifierHead']
    """
    modules: list[nn.Module] = []
    if isinstance(network, EndToEndNetwork):
        for block in network.prime_blocks:
            modules += [capsule.features for capsule in block.in_order]
            modules += _projections_of(block)
        return [*modules, network.head]
    for stage in network.stages:
        if isinstance(stage, PrimeBlock):
            modules += [*stage.in_order, *_projections_of(stage)]
        else:
            modules += list(stage.children())
    return modules


def _projections_of(block: PrimeBlock) -> list[nn.Module]:
    """A block's projection and its classifier, where it has them."""
    modules: list[nn.Module] = []
    for module in (block.projection, block.projection_classifier):
        if module is not None:
            modules.append(module)
    return modules
