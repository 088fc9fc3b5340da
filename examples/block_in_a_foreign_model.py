"""Put `PrimeBlock` layers into an ordinary torch network, and train it by an ordinary torch loop.

    python examples/block_in_a_foreign_model.py --epochs 20

No Lightning here. A block is a layer like any other: a map goes in, a map comes out. It needs to know the labels of a
training batch, which ``local_targets`` hands to all blocks, and it leaves losses behind, which ``collect_local_losses``
picks up. One backward of them all trains everything: their graphs are apart, so that each part gets the gradient of
its own loss and no other. For the same reason nothing below a block learns from what is above it; whatever stands
below the first block needs a loss of its own. The data are scikit-learn's digits; nothing is downloaded.
"""

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from primenet_lightning import PrimeBlock, collect_local_losses, local_targets


def build() -> nn.Sequential:
    """Build two blocks with a pool between them, and a classifier of plain torch."""
    return nn.Sequential(
        PrimeBlock.multiscale(1, (8, 8), num_classes=10, channels=16, projection_channels=8),
        nn.MaxPool2d(2),
        PrimeBlock.multiscale(16 + 8, (4, 4), num_classes=10, channels=32, projection_channels=8),
        nn.Conv2d(32 + 8, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def main(argv: Sequence[str] | None = None) -> float:
    """Train and test, with the options given, or those of the command line; return the test error in %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--limit", type=int, default=1400, help="train on so many images, at most 1438")
    args = parser.parse_args(argv)
    if not 1 <= args.limit <= 1438:
        parser.error(f"--limit {args.limit} is out of range; of 1,797 images 359 are for the test, so give 1 to 1438")

    torch.manual_seed(0)
    levels, digits = map(torch.tensor, load_digits(return_X_y=True))
    whole = TensorDataset(levels.float().view(-1, 1, 8, 8) / 8 - 1, digits)  # levels 0 to 16 to [-1, 1]
    train, test, _ = random_split(whole, [args.limit, 359, len(whole) - args.limit - 359])

    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(args.epochs):
        sums: dict[str, float] = {}
        for x, y in DataLoader(train, batch_size=50, shuffle=True):
            with local_targets(y):
                loss = cross_entropy(model(x), y)
            losses = collect_local_losses(model) | {"classifier": loss}
            optimizer.zero_grad()
            torch.autograd.backward(list(losses.values()))
            optimizer.step()
            sums = {name: sums.get(name, 0.0) + value.item() * len(y) for name, value in losses.items()}
        print(f"epoch {epoch}:", ", ".join(f"{name} {total / len(train):.3f}" for name, total in sums.items()))

    model.eval()  # from here on each block takes the capsule that training took most often, and needs no labels
    x, y = next(iter(DataLoader(test, batch_size=len(test))))
    with torch.no_grad():
        error = float(100 * (model(x).argmax(1) != y).float().mean())
    print(f"{error:.2f} % test error")
    return error


if __name__ == "__main__":
    main()
