"""The vote, counted by hand."""

import pytest
import torch

from primenet_lightning.baselines import majority_vote


def scores(*probabilities):
    return torch.tensor(probabilities).log()


def test_most_votes_win_even_against_a_surer_loser():
    voters = [scores([0.4, 0.35, 0.25]), scores([0.4, 0.35, 0.25]), scores([0.01, 0.01, 0.98])]
    assert majority_vote(voters).tolist() == [0]


def test_ties_go_to_the_larger_product_of_probabilities_among_the_tied():
    # classes 0 and 1 have a vote each, with products 0.5 * 0.1 and 0.4 * 0.45; class 2 has no vote and 0.1 * 0.45
    assert majority_vote([scores([0.5, 0.4, 0.1]), scores([0.1, 0.46, 0.44])]).tolist() == [1]
    # class 2 has the largest product of all, 0.49 * 0.49, and no vote
    voters = [scores([0.50, 0.01, 0.49]), scores([0.02, 0.51, 0.47])]
    assert majority_vote(voters).tolist() == [0]  # 0.5 * 0.02 against 0.01 * 0.51


def test_each_image_by_itself_against_a_loop():
    voters = list(torch.randn(3, 200, 4, generator=torch.Generator().manual_seed(0)))
    answers = majority_vote(voters)
    for i, answer in enumerate(answers.tolist()):
        firsts = [int(v[i].argmax()) for v in voters]
        most = max(map(firsts.count, firsts))
        tied = [c for c in range(4) if firsts.count(c) == most]
        assert answer == max(tied, key=lambda c: sum(float(v[i].softmax(0)[c].log()) for v in voters))


def test_scores_of_different_scale_are_compared_as_probabilities():
    assert majority_vote([torch.tensor([[1001.0, 1000.0]]), torch.tensor([[0.0, 2.0]])]).tolist() == [1]


@pytest.mark.parametrize("voters", [[], [torch.zeros(2, 3), torch.zeros(2, 4)], [torch.zeros(3)]], ids=str)
def test_bad_votes_are_refused(voters):
    with pytest.raises(ValueError, match="give at least one, and all as"):
        majority_vote(voters)
