import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from primenet_lightning import CompositeOptimizer, PaperAdam
from primenet_lightning.training.optimizers import CompositeScheduler


@pytest.fixture
def two():
    """Two networks, and a composite over the first's layers beside separate optimizers over the second's."""
    nets = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()]
    nets.append(copy.deepcopy(nets[0]))
    made = [
        {"a": Adam(net[0].parameters(), lr=0.1), "b": SGD(net[1].parameters(), lr=0.01, momentum=0.9)} for net in nets
    ]
    return nets, CompositeOptimizer(made[0]), made[1]


def learn(net, *optimizers, seed=0):
    torch.manual_seed(seed)
    net.zero_grad()
    net(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


def test_one_step_is_a_step_of_each_child(two):
    nets, composite, separate = two
    for seed in range(10):
        learn(nets[0], composite, seed=seed)
        learn(nets[1], *separate.values(), seed=seed)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_state_goes_through_the_composite_and_is_seen_by_the_children(two):
    nets, composite, _ = two
    for seed in range(3):
        learn(nets[0], composite, seed=seed)
    saved, weights = copy.deepcopy(composite.state_dict()), copy.deepcopy(nets[0].state_dict())
    fresh = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    fresh.load_state_dict(weights)
    resumed = CompositeOptimizer(
        {"a": Adam(fresh[0].parameters(), lr=9.0), "b": SGD(fresh[1].parameters(), lr=9.0, momentum=0.9)}
    )
    resumed.load_state_dict(saved)
    assert resumed.children["a"].param_groups[0]["lr"] == 0.1
    for seed in range(3, 6):
        learn(nets[0], composite, seed=seed)
        learn(fresh, resumed, seed=seed)
    for p, q in zip(nets[0].parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)


def test_groups_carry_the_names(two):
    assert [group["name"] for group in two[1].param_groups] == ["a", "b"]
    two[1].children["b"].param_groups[0]["lr"] = 7.0
    assert two[1].param_groups[1]["lr"] == 7.0


def test_closure_is_called_once_and_its_loss_returned(two):
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        return 7.0

    assert two[1].step(closure) == 7.0
    assert calls == [True]


def test_a_copy_is_whole(two):
    nets, composite, _ = two
    learn(nets[0], composite)
    net, copied = copy.deepcopy((nets[0], composite))
    learn(nets[0], composite, seed=1)
    learn(net, copied, seed=1)
    for p, q in zip(nets[0].parameters(), net.parameters(), strict=True):
        assert torch.equal(p, q)
    copied.children["a"].param_groups[0]["lr"] = 5.0
    assert (copied.param_groups[0]["lr"], composite.param_groups[0]["lr"]) == (5.0, 0.1)


def test_groups_that_nobody_would_step_are_refused(two):
    with pytest.raises(RuntimeError, match="takes no further group, which none of its optimizers would step"):
        two[1].add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_no_children_and_shared_parameters_are_refused():
    with pytest.raises(ValueError, match="is empty"):
        CompositeOptimizer({})
    p = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="more than one"):
        CompositeOptimizer({"a": SGD([p], lr=1.0), "b": SGD([p], lr=1.0)})


def test_an_optimizer_that_asks_for_the_loss_again_is_refused():
    """Or it would fail at the first step, in torch's words."""
    with pytest.raises(TypeError, match="the optimizer of 'head' is LBFGS, whose step computes the loss again and"):
        CompositeOptimizer({"head": LBFGS([nn.Parameter(torch.zeros(1))])})


def test_each_child_follows_its_own_schedule(two):
    _, composite, separate = two
    schedule = CompositeScheduler(
        composite,
        {"a": StepLR(composite.children["a"], 2, 0.5), "b": CosineAnnealingLR(composite.children["b"], 10)},
    )
    expected = [StepLR(separate["a"], 2, 0.5), CosineAnnealingLR(separate["b"], 10)]
    for _ in range(7):
        composite.step()
        schedule.step()
        for optimizer, scheduler in zip(separate.values(), expected, strict=True):
            optimizer.step()
            scheduler.step()
        assert schedule.get_last_lr() == [s.get_last_lr()[0] for s in expected]
    other = CompositeScheduler(
        composite,
        {"a": StepLR(composite.children["a"], 2, 0.5), "b": CosineAnnealingLR(composite.children["b"], 10)},
    )
    other.load_state_dict(schedule.state_dict())
    assert other.schedulers["b"].last_epoch == 7


def test_schedulers_that_cannot_work_are_refused(two):
    with pytest.raises(ValueError, match=r"schedulers for \['c'\], but the optimizers are \['a', 'b'\]"):
        CompositeScheduler(two[1], {"c": StepLR(two[1].children["a"], 2)})
    with pytest.raises(TypeError, match="ReduceLROnPlateau, which waits for a metric"):
        CompositeScheduler(two[1], {"a": ReduceLROnPlateau(two[1].children["a"])})


def test_paper_adam_is_adam_with_the_papers_settings():
    group = PaperAdam([nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.99, 0.999), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_paper_adam_is_fused_and_equals_torchs_loop_over_the_parameters(dtype):
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 300, dtype=dtype)) for _ in range(2))
    fused, loop = PaperAdam([ours]), Adam([theirs], lr=2e-4, betas=(0.99, 0.999), foreach=False)
    assert fused.param_groups[0]["fused"]
    for _ in range(100):
        ours.grad = torch.randn(300, dtype=dtype) * 10 ** torch.empty(300, dtype=dtype).uniform_(-6, 2)
        theirs.grad = ours.grad.clone()
        fused.step()
        loop.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_paper_adam_is_fused_only_where_that_can_be():
    p, on_meta = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, device="meta"))
    assert PaperAdam([("w", p)]).param_groups[0]["fused"]
    assert PaperAdam([{"params": p, "lr": 1.0}, {"params": [nn.Parameter(torch.ones(1))]}]).param_groups[1]["fused"]
    assert PaperAdam(iter([p])).param_groups[0]["fused"]
    assert len(PaperAdam([{"params": iter([p])}]).param_groups[0]["params"]) == 1  # and is not used up
    assert not PaperAdam([nn.Parameter(torch.zeros(2, 2, 2, 2).to(memory_format=torch.channels_last))]).param_groups[0][
        "fused"
    ]
    assert not PaperAdam([on_meta]).param_groups[0]["fused"]
    assert not PaperAdam([p], foreach=True).param_groups[0]["fused"]
    assert not PaperAdam([p], differentiable=True).param_groups[0]["fused"]
    assert not PaperAdam([p], fused=False).param_groups[0]["fused"]


def transposed(value):
    """The same values in another order in memory."""
    return value.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("pooled", [False, True], ids=["alone", "pooled"])
@pytest.mark.parametrize("what", ["gradient", "state", "parameter"])
def test_fused_updates_do_not_depend_on_layouts(what, pooled):
    """Torch's own would take the wrong elements together, without a word."""
    start = torch.linspace(-1, 1, 12).view(3, 4)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    fused, loop = PaperAdam([ours], lr=0.1), Adam([theirs], lr=0.1, betas=(0.99, 0.999), foreach=False)
    assert fused.param_groups[0]["fused"]
    if pooled:
        fused = CompositeOptimizer({"ours": fused, "other": PaperAdam([nn.Parameter(torch.zeros(1))])})
    for seed in range(4):
        torch.manual_seed(seed)
        theirs.grad = torch.randn(3, 4)
        ours.grad = theirs.grad.clone()
        if seed == 2 and what == "gradient":
            ours.grad = transposed(ours.grad)
        if seed == 2 and what == "state":  # as a checkpoint of another layout brings it
            saved = copy.deepcopy(fused.state_dict())
            saved["state"][0]["exp_avg"] = transposed(saved["state"][0]["exp_avg"])
            fused.load_state_dict(saved)
        if seed == 2 and what == "parameter":  # as Module.to(memory_format=...) does
            ours.data = transposed(ours.data)
        fused.step()
        loop.step()
    torch.testing.assert_close(ours, theirs)


@pytest.fixture
def three():
    """A composite of three optimizers of one class with settings of their own, beside the same ones separate."""
    nets = [nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))).double()]
    nets.append(copy.deepcopy(nets[0]))
    made = [{str(i): PaperAdam(net[i].parameters(), lr=0.1 / (i + 1)) for i in range(3)} for net in nets]
    return nets, CompositeOptimizer(made[0]), made[1]


def calls(monkeypatch):
    """How many optimizers each step of PaperAdam is called on."""
    seen, step = [], PaperAdam.step
    monkeypatch.setattr(PaperAdam, "step", lambda self, *args: (seen.append(len(self.param_groups)), step(self, *args)))
    return seen


def test_optimizers_of_one_class_are_stepped_in_one_call_to_the_same_numbers(three, monkeypatch):
    nets, composite, separate = three
    for seed in range(5):
        learn(nets[0], composite, seed=seed)
        learn(nets[1], *separate.values(), seed=seed)
        composite.children["1"].param_groups[0]["lr"] *= 0.5  # as a schedule of one's own would
        separate["1"].param_groups[0]["lr"] *= 0.5
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)
    saved = copy.deepcopy(composite.state_dict())
    composite.load_state_dict(saved)  # replaces groups and state
    seen = calls(monkeypatch)
    learn(nets[0], composite, seed=5)
    assert seen == [3]
    seen.clear()
    learn(nets[1], *separate.values(), seed=5)
    assert seen == [1, 1, 1]
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_child_whose_own_step_somebody_waits_for_is_stepped_by_itself(three, monkeypatch):
    _, composite, _ = three
    seen, stepped = calls(monkeypatch), []
    handle = composite.children["0"].register_step_post_hook(lambda *_: stepped.append("hook"))
    composite.step()
    assert (seen, stepped) == ([1, 2], ["hook"])
    handle.remove()
    seen.clear()
    schedule = StepLR(composite.children["2"], 1)  # counts the steps of its optimizer, to warn
    composite.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step()
    assert sorted(seen) == [1, 2]
