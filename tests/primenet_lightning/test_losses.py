import torch

from primenet_lightning.losses import cross_entropy


def test_cross_entropy_is_the_closed_form():
    logits, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 2, 2, 1])
    expected = (logits.exp().sum(1).log() - logits[range(5), target]).mean()
    torch.testing.assert_close(cross_entropy(logits, target), expected)


def test_bfloat16_logits_give_a_float32_loss():
    logits, target = torch.randn(64, 10).bfloat16(), torch.randint(10, (64,))
    loss = cross_entropy(logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.float(), target), rtol=0, atol=0)
