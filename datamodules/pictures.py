"""One picture as the network sees it: held upright, on white, grey or RGB, of one size.

Training and prediction read pictures by these same functions.
"""

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from primenet_lightning.datamodules.drawn import as_scan

Fit = Literal["stretch", "crop", "pad", "digit"]
"""How a picture is brought to a size: stretched, cut to its middle, with black bars around it, or by `as_scan`."""

FITS: tuple[Fit, ...] = ("stretch", "crop", "pad", "digit")

MODES = {1: "L", 3: "RGB"}
"""Pillow's name of the colours, by the number of channels."""

SEVERAL_IN_ONE = ("MPO", "PSD")
"""Formats whose first picture is the whole one: others are previews, depth maps or layers."""

ORIENTATION = 0x0112
"""EXIF's tag of how a camera was held."""


class ImageFileError(ValueError):
    """An image file cannot be used; the message names the file, what is wrong and what to do."""


def check_channels(in_channels: int) -> None:
    """Refuse a number of channels that no image file has.

    Args:
        in_channels: 1 for grey, 3 for RGB.

    Raises:
        ValueError: For any other.
    """
    if in_channels not in MODES:
        raise ValueError(f"in_channels={in_channels} fits no image file; give 1 (grey) or 3 (RGB).")


def check_fit(fit: str | None) -> None:
    """Refuse an unknown way to bring a picture to another size.

    Args:
        fit: ``"stretch"``, ``"crop"``, ``"pad"``, ``"digit"``, or None not to.

    Raises:
        ValueError: For any other.
    """
    if fit is not None and fit not in FITS:
        raise ValueError(f"fit={fit!r} is unknown; give 'stretch', 'crop', 'pad', 'digit', or None to resize nothing.")


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of the files that Pillow can read, in small letters: ``".png"``, ``".jpg"`` and others."""
    suffixes: set[str] = set()
    for suffix, kind in Image.registered_extensions().items():
        if kind in Image.OPEN:
            suffixes.add(suffix)
    return frozenset(suffixes)


def read_picture(path: Path, image_size: tuple[int, int], in_channels: int, fit: Fit | None = None) -> Tensor:
    """Read an image file.

    It is turned as its EXIF tag says, and what is transparent becomes white, as a browser shows it.

    Args:
        path: The file.
        image_size: Height and width in pixels.
        in_channels: 1 converts to grey, 3 to RGB.
        fit: How a picture of another size is brought to ``image_size``; None refuses it.

    Returns:
        uint8 (channels, height, width).

    Raises:
        ImageFileError: If it is missing, damaged, not an image, of another size and not to be resized, has more than
            8 bits or several frames, or shows nothing on white.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (8, 6), "red").save(Path(folder, "red.png"))
        ...     pixels = read_picture(Path(folder, "red.png"), (3, 4), 3, fit="stretch")
        >>> pixels.shape, pixels[:, 0, 0].tolist()
        (torch.Size([3, 3, 4]), [255, 0, 0])
    """
    if not path.exists():
        raise ImageFileError(f"{path} does not exist; check the path.")
    try:
        _verify(path)
        with Image.open(path) as image:
            _check_kind(path, image)
            if fit is None:
                _check_size(path, image, image_size)
            upright = _upright(image)
            if fit is None:
                _check_exact_size(path, upright, image_size)
            picture = _on_white(path, upright).convert(MODES[in_channels])
    except ImageFileError:
        raise
    except Exception as error:  # a decoder raises whatever its format makes of damaged bytes
        raise ImageFileError(f"{path} cannot be read as an image ({error}); save it again, as PNG.") from error
    return as_pixels(fitted(picture, image_size, fit))


def picture_of(image: Image.Image, in_channels: int, name: str) -> Image.Image:
    """Turn a picture upright, put it on white, and convert it to grey or RGB, as `read_picture` does.

    Args:
        image: Of any size and colours.
        in_channels: 1 for grey, 3 for RGB.
        name: What to call it in an error.

    Returns:
        A picture of mode L or RGB.

    Raises:
        ImageFileError: If it has more than 8 bits or shows nothing on white.
    """
    _check_kind(name, image)
    return _on_white(name, _upright(image)).convert(MODES[in_channels])


def fitted(image: Image.Image, size: tuple[int, int], fit: Fit | None) -> Image.Image:
    """Bring a picture to a size, by bilinear interpolation with antialiasing.

    Args:
        image: Any.
        size: Height and width in pixels.
        fit: ``"stretch"`` changes its proportions, ``"crop"`` cuts off what is too long, ``"pad"`` adds black bars,
            ``"digit"`` makes a light digit on black of it, as MNIST's are, also of one that has the size.

    Returns:
        A picture of that size; the same one if it has it, or without ``fit``.
    """
    height, width = size
    if fit == "digit":
        return as_scan(image, size)
    if fit is None or image.size == (width, height):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    if fit == "pad":
        return ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def as_pixels(image: Image.Image) -> Tensor:
    """Copy a picture into a tensor.

    Args:
        image: Of mode L or RGB.

    Returns:
        uint8 (channels, height, width).
    """
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.permute(2, 0, 1).contiguous()


def _verify(path: Path) -> None:
    """Compare the parts of a PNG with their check sums, at which Pillow does not look while it decodes."""
    with Image.open(path) as image:
        if image.format == "PNG":
            image.verify()


def _check_kind(name: Path | str, image: Image.Image) -> None:
    """Refuse what is no single picture of 8 bits; only the header has been read."""
    if image.mode[0] in "IF":  # Pillow would cut these off at 255 instead of scaling them
        raise ImageFileError(f"{name} has pixels of more than 8 bits (mode {image.mode}); save it with 8 bits.")
    if _is_misread(image):
        raise ImageFileError(f"{name} is an uncompressed TIFF that lies on its side; save it upright, or as PNG.")
    if getattr(image, "is_animated", False) and image.format not in SEVERAL_IN_ONE:
        raise ImageFileError(f"{name} has several frames or pages; save the one that is meant as a file of its own.")


def _is_misread(image: Image.Image) -> bool:
    """Whether Pillow would mix up the rows: those of an uncompressed TIFF that its tag turns by a quarter."""
    if image.format != "TIFF" or image.getexif().get(ORIENTATION) not in (5, 6, 7, 8):
        return False
    tiles: Any = getattr(image, "tile", [])  # empty once it has been loaded
    return bool(tiles) and tiles[0][0] == "raw"


def _check_size(path: Path, image: Image.Image, image_size: tuple[int, int]) -> None:
    """Only the header has been read by now: a huge picture is refused before it fills the memory."""
    height, width = image_size
    if image.size not in ((width, height), (height, width)):
        _refuse_size(path, image, image_size)


def _check_exact_size(path: Path, upright: Image.Image, image_size: tuple[int, int]) -> None:
    if upright.size != (image_size[1], image_size[0]):
        _refuse_size(path, upright, image_size)


def _refuse_size(path: Path, image: Image.Image, image_size: tuple[int, int]) -> None:
    raise ImageFileError(
        f"{path} is {image.width} pixels wide and {image.height} high, the network takes {image_size[1]} by "
        f"{image_size[0]}; resize it first, or have it stretched by --resize (in Python fit='stretch')."
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF tag says."""
    image.load()  # Pillow turns a TIFF while it loads it, and else would turn it twice
    return ImageOps.exif_transpose(image)


def _on_white(name: Path | str, image: Image.Image) -> Image.Image:
    """Put a transparent picture on white; refuse one of which nothing is to be seen there."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    on_white = Image.alpha_composite(white, image).convert("RGB")
    opacity = np.asarray(image.getchannel("A"))
    colours = np.asarray(on_white)
    is_blank = bool((colours == colours[0, 0]).all())
    if is_blank and (opacity.min() < opacity.max() or opacity.max() == 0):
        raise ImageFileError(
            f"{name} is transparent and shows nothing on white; save it without transparency, on a ground of its own."
        )
    return on_white
