"""Train a network stage by stage by a plain torch loop: the engine without Lightning, in ten lines.

    python examples/pure_torch.py --epochs 20

A ``StageRunner`` runs a batch through the stages of a network: each one's losses go backward and its activations are
freed, and then one detached map goes on. ``Rhythm`` says how often it goes backward, exchanges and steps; all rhythms
give the same numbers. The data are scikit-learn's digits; nothing is downloaded.
"""

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from primenet_lightning import CompositeOptimizer, PaperAdam, PrimeNetwork, Rhythm, StageRunner, architecture


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--backward", choices=["learner", "stage"], default="stage", help="how often it goes backward")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    levels, digits = map(torch.tensor, load_digits(return_X_y=True))
    images = levels.float().view(-1, 1, 8, 8) / 8 - 1  # levels 0 to 16 to [-1, 1]
    train, test = random_split(TensorDataset(images, digits), [1438, 359])

    network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
    adams = {name: PaperAdam(parameters, lr=1e-3) for name, parameters in network.learners().items()}
    runner = StageRunner(network, CompositeOptimizer(adams), Rhythm(backward=args.backward))
    for epoch in range(args.epochs):
        for x, y in DataLoader(train, batch_size=50, shuffle=True):
            record = runner.step(x, y)
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in record.values.items())
        print(f"epoch {epoch}, last batch: {losses}")

    network.eval()
    x, y = next(iter(DataLoader(test, batch_size=len(test))))
    with torch.no_grad():
        error = float(100 * (network(x).argmax(1) != y).float().mean())
    print(f"{error:.2f} % test error")
    return error


if __name__ == "__main__":
    main()
