import csv

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image
from sklearn.metrics import confusion_matrix
from tiny import TinyData, make_model, make_trainer
from torch.nn.functional import cross_entropy

from primenet_lightning.callbacks.confusion import ConfusionAndErrors


class Quiet(ConfusionAndErrors):
    """Keeps the numbers and draws nothing."""

    def _draw(self, trainer, pl_module, folder):
        pass


class Answers(LightningModule):
    """Gives answers that were made before."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def test_step(self, batch, batch_idx):
        return {"logits": self.logits[batch_idx]}


def made(sizes=(6, 6, 3), classes=4, shape=(1, 5, 5)):
    """Batches and answers, of which about half are right."""
    batches = [(torch.randn(size, *shape), torch.randint(classes, (size,))) for size in sizes]
    logits = [torch.randn(len(y), classes) + 2 * torch.nn.functional.one_hot(y, classes) for _, y in batches]
    return batches, logits


def run(folder, logits, batches, loader, callback):
    make_trainer(folder, [callback]).test(Answers(logits), loader(batches), verbose=False)
    return callback


def all_of(batches, logits):
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return images, labels, torch.cat(logits)


@pytest.mark.parametrize("worst", [1, 4, 100])
def test_matrix_and_worst_errors_are_those_of_all_images_at_once(worst, loader, tmp_path):
    batches, logits = made((20, 20, 7))
    seen = run(tmp_path, logits, batches, loader, Quiet(worst=worst))
    images, labels, answers = all_of(batches, logits)
    predicted = answers.argmax(1)
    assert np.array_equal(seen.confusion, confusion_matrix(labels, predicted, labels=range(4)))
    losses = -answers.log_softmax(1)[torch.arange(len(labels)), labels]
    wrong = [i for i in losses.argsort(descending=True).tolist() if predicted[i] != labels[i]]
    assert len(wrong) > 5
    wrong = wrong[:worst]
    assert torch.equal(seen.errors.images, images[wrong])
    assert torch.equal(seen.errors.true, labels[wrong])
    assert torch.equal(seen.errors.predicted, predicted[wrong])
    assert seen.errors.loss.tolist() == pytest.approx(losses[wrong].tolist())
    assert seen.errors.p_true.tolist() == pytest.approx((-losses[wrong]).exp().tolist())
    assert seen.errors.p_predicted.tolist() == pytest.approx(answers.softmax(1).amax(1)[wrong].tolist())


def test_kept_images_are_few_and_copies(loader, tmp_path):
    kept = []

    class Watched(Quiet):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
            kept.append((len(self.errors), self.errors.images.untyped_storage().nbytes()))
            batch[0].fill_(9)

    batches, logits = made((20, 20, 20))
    seen = run(tmp_path, logits, batches, loader, Watched(worst=3))
    assert kept == [(3, 3 * 25 * 4)] * 3
    assert not (seen.errors.images == 9).any()


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def pixels_of(path):
    with Image.open(path) as picture:
        return {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}


def test_pictures_and_tables(loader, tmp_path):
    """Two errors, of images in two colours, one class absent."""
    colours = torch.tensor([[10, 200, 30], [250, 120, 0], [0, 0, 255]])
    images = (colours / 255)[:, :, None, None].expand(3, 3, 6, 6)
    labels, answers = torch.tensor([0, 1, 1]), torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    class Data(TinyData):
        def test_dataloader(self):
            return loader([((images - 0.4) / 0.3, labels)])

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

        mean, std = (0.4,) * 3, (0.3,) * 3

    trainer = make_trainer(tmp_path, [ConfusionAndErrors()])
    trainer.test(Answers([answers]), Data(), verbose=False)
    figures = tmp_path / "figures"
    assert {(10, 200, 30), (250, 120, 0)} <= pixels_of(figures / "errors.png")
    assert (0, 0, 255) not in pixels_of(figures / "errors.png")
    assert table(figures / "confusion.csv") == [
        ["true", "as a", "as b", "as c"],
        ["a", "0", "1", "0"],
        ["b", "1", "1", "0"],
        ["c", "0", "0", "0"],
    ]
    header, *rows = table(figures / "errors.csv")
    assert header == ["true", "predicted", "loss (nats)", "p(true)", "p(predicted)"]
    assert [row[:2] for row in rows] == [["a", "b"], ["b", "a"]]
    losses = [cross_entropy(answers[[i]], labels[[i]]).item() for i in (0, 1)]
    assert [float(row[2]) for row in rows] == pytest.approx(losses)


def test_no_error_at_all(loader, tmp_path):
    batches = [(torch.randn(4, 1, 5, 5), torch.arange(4))]
    run(tmp_path, [5 * torch.eye(4)], batches, loader, ConfusionAndErrors())
    assert table(tmp_path / "figures/errors.csv") == [["true", "predicted", "loss (nats)", "p(true)", "p(predicted)"]]
    counts = [[int(count) for count in row[1:]] for row in table(tmp_path / "figures/confusion.csv")[1:]]
    assert np.array_equal(counts, np.eye(4))
    assert len(pixels_of(tmp_path / "figures/errors.png")) > 1  # says so


def test_oracle_has_files_of_its_own(tmp_path):
    trainer = make_trainer(tmp_path, [ConfusionAndErrors(tmp_path / "mine")])
    trainer.test(make_model(inference_routing="oracle"), TinyData(), verbose=False)
    found = sorted(path.name for path in (tmp_path / "mine/figures").iterdir())
    assert found == ["oracle-confusion.csv", "oracle-confusion.png", "oracle-errors.csv", "oracle-errors.png"]


def test_a_second_test_begins_anew(loader, tmp_path):
    batches, logits = made()
    seen = Quiet()
    for _ in range(2):
        run(tmp_path, logits, batches, loader, seen)
    assert seen.confusion.sum() == 15


def test_nothing_is_written_by_a_fast_dev_run_or_for_other_modules(tmp_path):
    make_trainer(tmp_path, [ConfusionAndErrors()], fast_dev_run=True).test(make_model(), TinyData(), verbose=False)
    make_trainer(tmp_path, [ConfusionAndErrors()], limit_test_batches=2).test(BoringModel(), verbose=False)
    assert list(tmp_path.iterdir()) == []


def after_test(folder, devices):
    seen = ConfusionAndErrors(folder) if devices > 1 else Quiet()
    options = dict(devices=devices, strategy="ddp") if devices > 1 else {}
    make_trainer(folder, [seen], **options).test(make_model(), TinyData(eval_batch_size=6), verbose=False)
    return seen.confusion, seen.errors


def test_two_ranks_see_what_one_sees(ranks, tmp_path):
    """20 images in batches of 6: the last one has 2."""
    alone, worst = after_test(tmp_path / "alone", 1)
    first, second = ranks(after_test, tmp_path / "both", 2)
    for confusion, errors in (first, second):
        assert torch.equal(confusion, alone)
        assert confusion.sum() == 20
        assert errors.loss.tolist() == pytest.approx(worst.loss.tolist())
        assert torch.equal(errors.images, worst.images)
    assert (tmp_path / "both/figures/confusion.png").is_file()


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="worst=0 must be at least 1"):
        ConfusionAndErrors(worst=0)
