"""A random side for each image that needs no memory: it is worked out from the image's pixels."""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of the generator SplitMix64 (Steele, Lea and Flood, 2014)."""

WORD = 8
"""Pixels in a word of 64 bits."""


def random_sides(images: Tensor, seed: int) -> Tensor:
    """Choose half of all images at random, the same ones whenever and wherever they are seen.

    An image's pixels, eight to a word, are multiplied by random odd numbers and added up; the sum, mixed as SplitMix64
    does, has a bit for the answer. So it depends on the image and the seed alone: on no batch, device, process or run.

    Args:
        images: uint8 ``(batch, channels, height, width)``.
        seed: Of the choice.

    Returns:
        bool ``(batch,)``.

    Example:
        >>> images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
        >>> random_sides(images, seed=0).tolist() == random_sides(images.flip(0), seed=0).flip(0).tolist()
        True
    """
    words = _words(images)
    places = torch.arange(1, words.shape[1] + 1, device=images.device)
    factors = _mixed(places + _signed(seed * GOLDEN)) | 1
    return _mixed((words * factors).sum(1)) < 0


def _words(images: Tensor) -> Tensor:
    """The bytes of each image as words, int64 ``(batch, words)``, the last one filled with zeros."""
    pixels = images.flatten(1)
    missing = -pixels.shape[1] % WORD
    # a copy in memory of its own, that words may be read from
    filled = torch.cat([pixels, pixels.new_zeros(len(pixels), missing)], dim=1).contiguous()
    return filled.view(torch.int64)


def _mixed(words: Tensor) -> Tensor:
    """Words whose every bit depends on all bits of what they were; products keep their last 64 bits."""
    words = (words ^ _shifted(words, 30)) * _signed(FIRST)
    words = (words ^ _shifted(words, 27)) * _signed(SECOND)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Words shifted to the right, zeros coming in; torch's own shift repeats the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The last 64 bits of a number, as int64 has them."""
    return (number + 2**63) % 2**64 - 2**63
