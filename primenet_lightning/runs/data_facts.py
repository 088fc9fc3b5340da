"""What a model card says of well-known data sets."""

from typing import NamedTuple


class DataFacts(NamedTuple):
    """A data set, in a few words.

    Attributes:
        title: What it is called.
        content: What is in it, and who made it.
        licence: Under which it is given out.
        limits: What a network that was trained on it has not seen.
        test_images: How many test images it has.
    """

    title: str
    content: str
    licence: str
    limits: str
    test_images: int


_KRIZHEVSKY = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
_NO_LICENCE = "its author asks to be cited, and states no licence"
_TINY = "Photos of one thing each, at 32 by 32 pixels: what needs more detail, or shows several, is unknown to it."

FACTS = {
    "mnist": DataFacts(
        "MNIST",
        "60,000 training and 10,000 test images of handwritten digits, grey, 28 by 28 pixels (Y. LeCun, C. Cortes and "
        "C. J. C. Burges, 1998)",
        "Creative Commons Attribution-ShareAlike 3.0",
        "Digits as census workers and pupils in the United States wrote them in the 1990s, one an image, upright and "
        "in the middle. Other ways to write a 1, a 4 or a 7, letters, and several digits at once are unknown to it.",
        10_000,
    ),
    "fashion-mnist": DataFacts(
        "Fashion-MNIST",
        "60,000 training and 10,000 test images of clothes, grey, 28 by 28 pixels (H. Xiao, K. Rasul and R. Vollgraf, "
        "2017)",
        "MIT",
        "Shop pictures of one piece each, cut out, on black.",
        10_000,
    ),
    "cifar10": DataFacts(
        "CIFAR-10",
        f"50,000 training and 10,000 test photos of ten kinds of animals and vehicles, RGB, 32 by 32 pixels "
        f"({_KRIZHEVSKY})",
        _NO_LICENCE,
        _TINY,
        10_000,
    ),
    "cifar100": DataFacts(
        "CIFAR-100",
        f"50,000 training and 10,000 test photos of a hundred kinds of things, RGB, 32 by 32 pixels ({_KRIZHEVSKY})",
        _NO_LICENCE,
        _TINY,
        10_000,
    ),
    "svhn": DataFacts(
        "SVHN",
        "73,257 training and 26,032 test photos of house numbers, cut to a digit, RGB, 32 by 32 pixels (Y. Netzer and "
        "others, Reading Digits in Natural Images with Unsupervised Feature Learning, 2011)",
        "for non-commercial use only",
        "Printed digits on houses; the digit in the middle counts.",
        26_032,
    ),
    "digits": DataFacts(
        "the digits of scikit-learn",
        "1,797 scans of handwritten digits, grey, 8 by 8 pixels (E. Alpaydin and C. Kaynak, Optical Recognition of "
        "Handwritten Digits, UCI, 1998), a fixed fifth of them for tests",
        "Creative Commons Attribution 4.0",
        "Digits of 43 people, at 8 by 8 pixels. It is an example that is small, and no reader of real handwriting.",
        359,
    ),
}
"""By the name of the data set in ``summary.json``."""
