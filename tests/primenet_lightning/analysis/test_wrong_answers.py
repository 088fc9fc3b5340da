import torch

from primenet_lightning.analysis.wrong_answers import WrongAnswers


def test_a_batch_without_a_worse_error_copies_nothing():
    images, labels, logits = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert len(WrongAnswers.of_batch(logits, images, labels, 5, above=1.0)) == 1
    assert len(WrongAnswers.of_batch(logits, images, labels, 5, above=2.0)) == 0
