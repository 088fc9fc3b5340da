"""The ways of sending losses backward whose memory `memory.py` measures, and checks that they are what they say."""

from collections.abc import Callable

import torch
from references import mean_and_projection
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from primenet_lightning import Architecture, PrimeBlock, PrimeNetwork, Rhythm, SavedActivations, StageRunner

IN_SHAPE = (3, 32, 32)
CLASSES = 10
WIDTHS = Architecture(
    reduce_channels=8,
    channels=16,
    projection_channels=8,
    head_channels=16,
    local_classifier="pooled",
    stride=1,
)


def end_to_end(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward of the head's loss through everything."""
    x = images
    for block in network.prime_blocks:
        x = mean_and_projection(block, x)
    torch.autograd.backward(functional.cross_entropy(network.head(x), target))


def end_to_end_checkpointed(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """The same; of each block only the input is kept, the rest is computed again in the backward pass.

    Checkpointing is reentrant, because `SavedActivations` has to see what is computed again: the non-reentrant kind
    puts hooks of its own around a block, and only the innermost hooks are called. The reentrant kind runs blocks
    without gradients unless an argument wants one; the images do not, so that an empty tensor does.
    """
    x, wants_gradient = images, images.new_empty(0, requires_grad=True)
    for block in network.prime_blocks:

        def run(x: Tensor, _: Tensor, block: PrimeBlock = block) -> Tensor:
            return mean_and_projection(block, x)

        x = checkpoint(run, x, wants_gradient, use_reentrant=True, preserve_rng_state=False)
    torch.autograd.backward(functional.cross_entropy(network.head(x), target))


def fused(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward of the sum of all local losses."""
    StageRunner(network, rhythm=Rhythm(backward="batch")).run(images, target)


def blockwise(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward per block, before the next one runs."""
    StageRunner(network).run(images, target)


def capsulewise(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward per capsule, before the next one runs."""
    StageRunner(network, rhythm=Rhythm(backward="learner")).run(images, target)


WAYS: dict[str, Callable[[PrimeNetwork, Tensor, Tensor], None]] = {
    way.__name__: way for way in (end_to_end, end_to_end_checkpointed, fused, blockwise, capsulewise)
}


def build(depth: int, in_shape: tuple[int, int, int] = IN_SHAPE) -> PrimeNetwork:
    """Build the network, the same one at each call; no pool between blocks."""
    torch.manual_seed(0)
    channels, *size = in_shape
    return PrimeNetwork.build(channels, (size[0], size[1]), CLASSES, WIDTHS, depth=depth, pool_every=depth + 1)


def make_batch(size: int, in_shape: tuple[int, int, int] = IN_SHAPE) -> tuple[Tensor, Tensor]:
    """Make images and labels, the same ones at each call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, *in_shape, generator=generator), torch.randint(CLASSES, (size,), generator=generator)


# -- checks --------------------------------------------------------------------------------------------------------


def check_counter(device: str) -> None:
    """Count what can be counted by hand: layers of tanh, each of which saves its output and nothing else.

    Args:
        device: Where; on some, backward runs in a thread of its own, which the hooks must reach.

    Raises:
        RuntimeError: If the count is wrong.
    """
    segments, layers = 5, 3
    x = torch.linspace(-1, 1, 1000, device=device).requires_grad_()
    size = x.untyped_storage().nbytes()

    def segment(x: Tensor) -> Tensor:
        for _ in range(layers):
            x = x.tanh()
        return x

    def checkpointed(x: Tensor) -> Tensor:
        again: Tensor = checkpoint(segment, x, use_reentrant=True)
        return again

    # checkpointed: each segment's input (the first is x) and either the last output or a segment computed again
    for run, expected in ((segment, segments * layers), (checkpointed, segments - 1 + layers)):
        y = x
        with SavedActivations([x]) as counter:
            for _ in range(segments):
                y = run(y)
            torch.autograd.backward((y * y).sum())  # saves y twice more, in the storage that is counted
        if (counter.peak, counter.alive) != (expected * size, 0):
            raise RuntimeError(
                f"{segments} segments of {layers} layers ({run.__name__}) save {expected} tensors of {size} bytes and "
                f"then let go of them, but {counter.peak} bytes were counted, and {counter.alive} afterwards"
            )


def check_gradients() -> None:
    """Compare what is being compared: the local ways learn the same, and so do both end-to-end ones.

    Raises:
        RuntimeError: If a gradient differs by a bit.
    """
    images, target = make_batch(4, (3, 8, 8))
    gradients: dict[str, dict[str, Tensor | None]] = {}
    for name, way in WAYS.items():
        network = build(3, (3, 8, 8))
        way(network, images, target)
        gradients[name] = {key: parameter.grad for key, parameter in network.named_parameters()}
    pairs = (("fused", "blockwise"), ("fused", "capsulewise"), ("end_to_end", "end_to_end_checkpointed"))
    for one, other in pairs:
        for key, gradient in gradients[one].items():
            if not same(gradient, gradients[other][key]):
                raise RuntimeError(f"{one} and {other} give different gradients to {key}")


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two gradients are equal to the last bit; a local classifier has none, end to end."""
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
