"""How alike features are, and how alike labels."""

import math

import torch
from torch import Tensor

from primenet_lightning.nn.layers import at_least_float32, autocast_off


def similarity_loss(features: Tensor, target: Tensor, num_classes: int) -> Tensor:
    r"""Mean squared error between how alike the images' features are and how alike their labels are.

    .. math:: L_{sim} = \frac{1}{B^2} \sum_{i,j} \bigl(\cos(h_i - \bar h_i,\, h_j - \bar h_j) - S_{ij}\bigr)^2

    Here :math:`h_i` is the standard deviation over space of each channel of image i, :math:`\bar h_i` its mean over
    the channels, and :math:`S_{ij}` the same cosine of the one-hot targets: 1 where the classes are equal and
    :math:`-1 / (C - 1)` where they differ. Maps of 1x1 have no deviation, and of three channels or fewer it would
    say too little: there :math:`h_i` holds all values of the map. This is Nøkland and Eidnes' (2019) loss.

    A constant map has no direction: its cosines are 0, and no gradient flows into it. It is computed in float32 also
    under autocast. On several devices each compares the images of its own share of the batch.

    Args:
        features: ``(batch, channels, height, width)``, any floating dtype.
        target: Class indices, ``(batch,)``, int64.
        num_classes: Number of classes, C.

    Returns:
        A scalar without unit, from 0 to 4; float64 if the features are float64, else float32.

    Example:
        >>> import torch
        >>> maps = torch.eye(3).reshape(3, 3, 1, 1)
        >>> same, different = torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
        >>> similarity_loss(maps, different, 3).round(decimals=5)  # three classes are as unlike as can be: -1/2
        tensor(0.)
        >>> similarity_loss(maps, same, 3)  # 6 of 9 pairs are off by 1 + 1/2
        tensor(1.5000)
    """
    with autocast_off(features):
        directions = _directions(_per_image(at_least_float32(features)))
        cosines = directions @ directions.T
        unlike = -1 / max(num_classes - 1, 1)
        same = (target[:, None] == target).to(cosines.dtype)
        return (cosines - (unlike + (1 - unlike) * same)).square().mean()


def _per_image(maps: Tensor) -> Tensor:
    """One vector an image: a multiple of the standard deviation over space by channel, or all values of a small map."""
    pixels = maps.shape[2] * maps.shape[3]
    if pixels == 1 or maps.shape[1] <= 3:
        return maps.flatten(1)
    mean = maps.mean((2, 3), keepdim=True)
    # The deviation but for a factor, which cosines do not see; torch.std takes about three times as long on a CPU.
    norm = torch.linalg.vector_norm(maps - mean, dim=(2, 3))
    noise = _rounding(mean.detach().abs().flatten(1) * math.sqrt(pixels))
    return torch.where(norm > noise, norm, 0)


def _directions(x: Tensor) -> Tensor:
    """Centre and normalise each row; a row of equal values becomes zero, and gets no gradient."""
    centred = x - x.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    alive = norm > _rounding(torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True))
    return torch.where(alive, centred, 0) / torch.where(alive, norm, 1)


def _rounding(size: Tensor) -> Tensor:
    """Below this a difference of numbers of that size is rounding: its direction means nothing, its slope is huge."""
    precision = torch.finfo(size.dtype)
    return (8 * precision.eps * size).clamp_min(math.sqrt(precision.tiny))
