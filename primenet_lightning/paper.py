"""The paper's numbers as data, each with where it stands; what it quotes from others is marked as quoted."""

from dataclasses import dataclass

PAPER = {"mnist": {"test_error": 0.58}, "cifar10": {"test_error": 6.21}, "svhn": {"test_error": 1.71}}
"""Test errors in %, as claimed in table 2 of the paper."""

PAPER_COST = {"parameters": 410_000, "multiply_adds": 2_700_000, "epochs": 150}
"""The row of PrimeNet in table 3; the paper calls the second number FLOPs."""

SUBSET = "svhn-subset"
"""A few images of SVHN, no data set of the paper: what is measured on them is no test error of SVHN."""

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "svhn": "SVHN", SUBSET: "a subset of SVHN", "digits": "digits"}
"""What the data sets are called in a report."""

EPOCHS = (100, 50)
"""Of phase 1 and of phase 2 (section 4.1, table 3)."""

TEST_ERRORS = {name: claim["test_error"] for name, claim in PAPER.items()}
"""PrimeNet's test errors in %, table 2."""


@dataclass(frozen=True)
class Split:
    """A row of table 1.

    Attributes:
        size: Height, width and channels of an image.
        classes: How many.
        train: Training images.
        test: Test images.
    """

    size: str
    classes: int
    train: int
    test: int


SPLITS = {
    "mnist": Split("28x28x1", 10, 60_000, 10_000),
    "cifar10": Split("32x32x3", 10, 50_000, 10_000),
    "svhn": Split("32x32x3", 10, 73_257, 26_032),
}
"""Table 1."""


@dataclass(frozen=True)
class QuotedError:
    """A baseline of table 2, whose errors the paper took from elsewhere, and so do we.

    Attributes:
        dataset: As in `SPLITS`.
        model: What it is called; the paper's ITADN is IMTA.
        errors: Test errors in %, as printed.
        technique: As printed.
        part: Of ``primenet reproduce``, that runs this system on this data set; empty where none does. Of the second
            row of "ITADN" it is ONE's, whose errors these are.
    """

    dataset: str
    model: str
    errors: tuple[float, ...]
    technique: str
    part: str = ""


QUOTED_ERRORS = (
    QuotedError("mnist", "DT-RAM", (1.46, 1.12), "conditional computation", "dt_ram"),
    QuotedError("cifar10", "CondenseNet", (3.46, 3.76), "conditional computation", "condensenet"),
    QuotedError("cifar10", 'IMTA (the paper\'s "ITADN")', (5.9,), "conditional computation", "imta"),
    QuotedError("cifar10", "RNP", (15.05,), "network pruning", "rnp"),
    QuotedError("cifar10", "SFP", (7.74, 6.32), "network pruning", "sfp"),
    QuotedError("cifar10", 'IMTA (the paper\'s "ITADN")', (3.13, 5.99), "knowledge distillation", "one"),
    QuotedError("svhn", "ONE", (1.63,), "knowledge distillation", "one"),
)
"""Table 2, without PrimeNet."""


@dataclass(frozen=True)
class ClaimedCost:
    """A row of table 3.

    Attributes:
        model: What it is called.
        datasets: On which it stands there.
        parameters: In millions.
        multiply_adds: In millions; the paper calls them FLOPs.
        epochs: As printed.
        quoted: Whether the paper took the row from elsewhere.
        part: Of ``primenet reproduce``, that counts this network on these data sets; empty where none does.
    """

    model: str
    datasets: tuple[str, ...]
    parameters: float
    multiply_adds: float
    epochs: str
    quoted: bool = True
    part: str = ""


ALL = tuple(SPLITS)

PRIMENET_COST = ClaimedCost(
    "PrimeNet", ALL, PAPER_COST["parameters"] / 1e6, PAPER_COST["multiply_adds"] / 1e6, "100+50", quoted=False
)
RESNET50_COST = ClaimedCost("ResNet-50", ALL, 23.6, 409, "50", quoted=False)
QUOTED_COSTS = (
    ClaimedCost("CondenseNet-light", ("cifar10",), 0.33, 122, "300"),
    ClaimedCost("CondenseNet-86", ("cifar10",), 0.52, 65, "300", part="condensenet"),
    ClaimedCost("ONE", ("svhn",), 0.5, 2.28, "300, 40", part="one"),
)
"""Table 3, without the two that the authors say they ran."""


def best_quoted(dataset: str, model: str) -> float:
    """Find the least error of a quoted baseline.

    Args:
        dataset: As in `SPLITS`.
        model: As in `QUOTED_ERRORS`.

    Returns:
        Test error in %.

    Example:
        >>> best_quoted("cifar10", "SFP")
        6.32
    """
    return min(error for row in QUOTED_ERRORS if (row.dataset, row.model) == (dataset, model) for error in row.errors)
