"""Put the network of a run into the package: its weights without code, and its model card, also beside the pages.

    python docs/tools/pretrained.py runs/mnist mnist-deep --fit digit --keep_classifiers

The test images of the run's data are read, to measure the weights as they are stored.
"""

import argparse
import shutil
from pathlib import Path

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.commands.main import main as primenet
from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.models.pretrained_config import WEIGHTS
from primenet_lightning.models.shipped import CARD, HOME

CARDS = Path(__file__).resolve().parents[1] / "cards"
"""Where the cards lie that the pages link to."""

LICENCE = "MIT, as this package"


def main() -> None:
    """Write weights, description and card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="Run folder.")
    parser.add_argument("name", help="What the network will be called.")
    parser.add_argument("--fit", choices=("stretch", "crop", "pad", "digit"), help="How it takes other pictures.")
    parser.add_argument("--keep_classifiers", action="store_true", help="So that images may leave by them.")
    options = parser.parse_args()

    folder = HOME / options.name
    shutil.rmtree(folder, ignore_errors=True)
    model = load_model(options.run)
    assert isinstance(model, Pretrained)
    assert model.data_description is not None
    model.data_description["fit"] = options.fit
    model.half().save_pretrained(folder, options.keep_classifiers)
    (folder / WEIGHTS).chmod(0o644)
    card = folder / CARD
    status = primenet(["card", options.run, f"--weights={folder}", f"--out={card}", f"--licence={LICENCE}"])
    assert status == 0
    CARDS.mkdir(exist_ok=True)
    shutil.copyfile(card, CARDS / f"{options.name}.md")


if __name__ == "__main__":
    main()
