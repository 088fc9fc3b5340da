import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning import (
    Capsule,
    PrimeBlock,
    Projection,
    collect_local_losses,
    conv_capsules,
    local_targets,
)
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.routes import BY_LABELS, EACH_SUREST


def make_block(**options):
    defaults = dict(reduce_channels=2, channels=4, projection_channels=3)
    return PrimeBlock.multiscale(2, (8, 8), num_classes=3, **(defaults | options))


@pytest.fixture
def batch():
    return torch.randn(6, 2, 8, 8), torch.randint(3, (6,))


def grads(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("learner", ["k3", "k5", "k7", "projection"])
def test_a_local_loss_reaches_its_own_parameters_and_nothing_else(batch, learner):
    block = make_block()
    images = batch[0].requires_grad_()
    block(images, batch[1]).losses[learner].backward()
    own = {f"capsules.{learner}."} if learner != "projection" else {"projection.", "projection_classifier."}
    touched = grads(block)
    assert {name for name, _ in block.named_parameters() if name.startswith(tuple(own))} == touched
    assert images.grad is None


def test_nothing_flows_back_through_the_output(batch):
    block = make_block()
    assert not block(*batch).features.requires_grad
    under_a_head = PrimeBlock((2, 8, 8), conv_capsules(2, (8, 8), 3, channels=4), Projection(2, 3))
    under_a_head(*batch).features.sum().backward()
    assert all(name.startswith("projection.") for name in grads(under_a_head))
    assert grads(under_a_head)


def test_output_is_the_map_of_the_least_loss_beside_the_projection(batch):
    block = make_block()
    out = block(*batch)
    losses = {name: functional.cross_entropy(c(batch[0])[1], batch[1]) for name, c in block.capsules.items()}
    best = min(losses, key=losses.get)
    assert block.capsule_names[out.route] == best
    torch.testing.assert_close(out.features[:, :4], block.capsules[best](batch[0])[0])
    torch.testing.assert_close(out.features[:, 4:], block.projection(batch[0]))
    assert out.values == pytest.approx({name: loss.item() for name, loss in out.losses.items()})


def test_training_remembers_its_routes_and_evaluation_does_not(batch):
    block = make_block()
    routes = [block(torch.randn(6, 2, 8, 8), batch[1]).route for _ in range(12)]
    assert [index for (index,) in block.history.ring] == routes
    block.eval()(*batch)
    assert len(block.history.ring) == 12


def test_evaluation_does_not_route_by_labels(batch):
    block = make_block().eval()
    block.history.append((2,))
    for shift in range(3):  # all permutations of what the labels can say
        out = block(batch[0], (batch[1] + shift) % 3)
        assert out.route == 2
        torch.testing.assert_close(out.features, block(batch[0]))


def test_inference_computes_the_routed_capsule_only(batch):
    block = make_block().eval()
    called = []
    for name, capsule in block.capsules.items():
        capsule.features.register_forward_hook(lambda *_, name=name: called.append(name))
        capsule.classifier.register_forward_hook(lambda *_, name=name: called.append(f"{name} classifier"))
    block.history.append((1,))
    block(batch[0])
    assert called == ["k5"]


def test_min_entropy_takes_each_sample_from_its_surest_capsule(batch):
    block = make_block().eval()
    out = block.isolated(batch[0], EACH_SUREST)
    for sample in range(6):
        one = batch[0][sample : sample + 1]
        entropies = [
            torch.distributions.Categorical(logits=c(one)[1]).entropy().item() for c in block.capsules.values()
        ]
        chosen = list(block.capsules.values())[entropies.index(min(entropies))]
        torch.testing.assert_close(out[sample : sample + 1, :4], chosen(one)[0])


def test_oracle_routes_by_the_labels_and_says_which(batch):
    block = make_block().eval()
    outputs = list(block.run_learners(*batch))
    losses = [output.loss.item() for output in outputs[: len(block.capsule_names)]]
    assert block.settle(batch[0], outputs, BY_LABELS) == losses.index(min(losses))


def test_nan_loss_names_the_capsule(batch):
    block = make_block()
    with torch.no_grad():
        block.capsules["k5"].classifier[2].bias[0] = torch.nan
    with pytest.raises(NonFiniteError, match="the loss of k5 is nan"):
        block(*batch)


def test_layer_in_a_foreign_model_learns_locally(batch):
    model = nn.Sequential(make_block(), nn.ReLU(), make_block_after(), nn.Flatten(), nn.Linear(4 * 64, 3))
    with local_targets(batch[1]):
        logits = model(batch[0])
    losses = collect_local_losses(model)
    assert list(losses) == ["0.k3", "0.k5", "0.k7", "0.projection", "2.k3"]
    assert collect_local_losses(model) == {}
    direct = model[0](*batch).losses
    for name, loss in direct.items():
        torch.testing.assert_close(losses[f"0.{name}"], loss)
    (functional.cross_entropy(logits, batch[1]) + sum(losses.values())).backward()
    assert all(p.grad is not None for p in model.parameters())
    model(batch[0])
    assert collect_local_losses(model) == {}  # without labels there is nothing to learn from
    with local_targets(batch[1]):
        model.eval()(batch[0])
    assert collect_local_losses(model) == {}  # nor in evaluation


def make_block_after():
    return PrimeBlock.multiscale(
        7, (8, 8), num_classes=3, kernel_sizes=(3,), reduce_channels=2, channels=4, projection_channels=0
    )


def test_foreign_model_equals_a_loop_over_its_parts(batch):
    """Train a block inside a Sequential, and the same parts by hand: the parameters stay equal."""
    model = nn.Sequential(make_block(projection_channels=0), nn.Flatten(), nn.Linear(4 * 64, 3)).double()
    twin = nn.Sequential(make_block(projection_channels=0), nn.Flatten(), nn.Linear(4 * 64, 3)).double()
    twin.load_state_dict(model.state_dict())
    images, target = batch[0].double(), batch[1]
    together = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        with local_targets(target):
            logits = model(images)
        (functional.cross_entropy(logits, target) + sum(collect_local_losses(model).values())).backward()
        together.step()
        together.zero_grad()

        seen = {}
        for name, capsule in twin[0].capsules.items():
            feature_map, local = capsule(images)
            loss = functional.cross_entropy(local, target)
            seen[name] = (
                loss.item(),
                feature_map.detach(),
                list(torch.autograd.grad(loss, list(capsule.parameters()))),
            )
        chosen = min(seen.values(), key=lambda item: item[0])[1]
        loss = functional.cross_entropy(twin[2](chosen.flatten(1)), target)
        head = list(torch.autograd.grad(loss, list(twin[2].parameters())))
        with torch.no_grad():
            for name, capsule in twin[0].capsules.items():
                for p, g in zip(capsule.parameters(), seen[name][2], strict=True):
                    p -= 0.1 * g
            for p, g in zip(twin[2].parameters(), head, strict=True):
                p -= 0.1 * g
    for (name, p), (_, q) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_maps_that_disagree_are_refused():
    def capsule(channels, padding):
        return Capsule(
            nn.Conv2d(2, channels, 3, padding=padding),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)),
        )

    with pytest.raises(ValueError, match=r"must agree in shape, but a gives \(4, 8, 8\) and b gives \(5, 8, 8\)"):
        PrimeBlock((2, 8, 8), {"a": capsule(4, 1), "b": capsule(5, 1)}, None)
    with pytest.raises(ValueError, match=r"must agree in shape, but a gives \(4, 8, 8\) and b gives \(4, 6, 6\)"):
        PrimeBlock((2, 8, 8), {"a": capsule(4, 1), "b": capsule(4, 0)}, None)
    with pytest.raises(ValueError, match="has the projection the capsules' stride"):
        PrimeBlock((2, 8, 8), {"a": capsule(4, 1)}, Projection(2, 3, nn.MaxPool2d(2)))
    with pytest.raises(ValueError, match="capsules has one named 'projection'"):
        PrimeBlock((2, 8, 8), {"projection": capsule(4, 1)}, None)
    with pytest.raises(ValueError, match=r"capsule a cannot take an input of shape \(3, 8, 8\)"):
        PrimeBlock((3, 8, 8), {"a": capsule(4, 1)}, None)
    with pytest.raises(ValueError, match="at least one capsule"):
        PrimeBlock((2, 8, 8), {}, None)
    with pytest.raises(ValueError, match="projection_classifier is given but projection is None"):
        PrimeBlock((2, 8, 8), {"a": capsule(4, 1)}, None, nn.Linear(1, 1))


def test_bad_input_is_named(batch):
    block = make_block()
    with pytest.raises(
        ValueError, match=r"x has shape \(6, 2, 7, 8\), but this block was built for \(batch, 2, 8, 8\)"
    ):
        block(batch[0][:, :, :7], batch[1])
    with pytest.raises(ValueError, match="normalise images to floating point"):
        block(batch[0].to(torch.uint8))
    with pytest.raises(ValueError, match=r"kernel_sizes=\(3, 3\) names a scale twice"):
        conv_capsules(1, (8, 8), 3, (3, 3))


def test_building_leaves_modes_and_statistics_alone():
    """The trial run at construction must not wake a frozen backbone, nor move its batch norm statistics."""
    capsules = conv_capsules(2, (8, 8), 3, channels=4)
    capsules["k3"].features[2].eval()
    PrimeBlock((2, 8, 8), capsules, None)
    assert [capsule.features[2].training for capsule in capsules.values()] == [False, True, True]
    for capsule in capsules.values():
        assert capsule.features[2].num_batches_tracked == 0


def test_no_gradient_crosses_a_block_that_routes_without_labels(batch):
    for routing in (0, EACH_SUREST):
        block = make_block()
        images = batch[0].requires_grad_()
        assert not block.isolated(images, routing).requires_grad
        under_a_head = PrimeBlock((2, 8, 8), conv_capsules(2, (8, 8), 3, channels=4), Projection(2, 3))
        under_a_head.isolated(images, routing).sum().backward()
        assert {name.split(".")[0] for name in grads(under_a_head)} == {"projection"}
        assert images.grad is None


def test_copies_go_without_losses_that_nobody_collected(batch):
    model = nn.Sequential(make_block())
    with local_targets(batch[1]):
        model(batch[0])
    copied = copy.deepcopy(model)
    assert collect_local_losses(copied) == {}
    assert len(collect_local_losses(model)) == 4
