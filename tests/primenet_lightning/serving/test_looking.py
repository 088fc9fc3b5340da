"""What the demo page shows, without a server."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from primenet_lightning import CutNet, PrimeNet, pretrained
from primenet_lightning.commands.main import main
from primenet_lightning.serving.early_exit import EarlyExit
from primenet_lightning.serving.looking import look
from primenet_lightning.serving.page import Demo, build

DIGITS = Path(__file__).parents[3] / "tests" / "data" / "digits"


@pytest.fixture(scope="module")
def digits():
    return pretrained("digits")


def shares_of(html):
    return [re.sub(r"\s+", " ", part) for part in re.findall(r"<div>says (.*?)</div>", html)]


def test_verdicts_are_those_of_the_capsules_own_classifiers():
    model = PrimeNet(depth=2, kernel_sizes=(1, 3), inference_routing="majority").eval()
    model.data_description = None
    image = torch.randn(1, 1, 8, 8)
    seen = look(model, image, threshold=2.0)
    block = model.network.prime_blocks[0]
    with torch.no_grad():
        feature_map, logits = block.capsule(1)(image)
        answer = model(image)[0].softmax(0)
    second = seen.verdicts[1]
    assert second.name == "block0.k3"
    torch.testing.assert_close(second.maps, feature_map[0])
    torch.testing.assert_close(second.probabilities, logits[0].softmax(0))
    torch.testing.assert_close(seen.probabilities, answer)
    assert [verdict.goes_on for verdict in seen.verdicts] == [True, False] * 2  # the route of one that has seen nothing
    assert (seen.exit, seen.exits) == (2, 3)


def test_an_image_leaves_where_early_exit_says(digits):
    image = torch.randn(1, 1, 8, 8)
    for threshold in (0.11, 0.5, 2.0):
        answers = EarlyExit(digits, threshold).classify(image)
        seen = look(digits, image, threshold)
        assert seen.exit == int(answers.exits[0])
        assert seen.share == pytest.approx(answers.multiply_adds / EarlyExit(digits).full_cost)


def test_parts_of_a_backbone_and_networks_without_parts_are_shown_too():
    image = torch.randn(1, 3, 32, 32)
    cut = CutNet(backbone="whitened", backbone_options={"widths": [8, 8, 8]}, parts=2).eval()
    assert [verdict.goes_on for verdict in look(cut, image).verdicts] == [True]
    whole = CutNet(backbone="whitened", backbone_options={"widths": [8, 8, 8]}, local=False).eval()
    assert look(whole, image)[0] == []
    assert look(whole, image)[2:] == (None, 0, None)


def test_the_page_says_what_is_seen(digits):
    demo = Demo(digits, "digits")
    with Image.open(DIGITS / "drawn_0.png") as picture:
        html = demo.answer({"composite": picture}, 1.0)
    assert '<div class="label">0</div>' in html
    assert len(shares_of(html)) == html.count("goes on</div>") == 4
    assert html.count("data:image/png;base64,") == 5
    assert "multiply-adds" in html or "the whole network answers" in html
    assert "Draw a digit" in demo.answer(Image.new("RGBA", (9, 9)), 0.9)
    assert "has pixels of more than 8 bits" in demo.answer(Image.new("I;16", (9, 9)), 0.9)


def test_the_page_is_built_and_its_events_answer(digits):
    pytest.importorskip("gradio")
    page = build(Demo(digits, "digits"))
    kinds = {type(block).__name__ for block in page.blocks.values()}
    assert {"Sketchpad", "Image", "Slider", "HTML"} <= kinds
    assert len(page.fns) == 4  # each input, and the slider for each


def test_without_gradio_it_is_one_sentence(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else find(name, *a))
    assert main(["demo"]) == 1
    told = capsys.readouterr().err
    assert told == "primenet: error: gradio is not installed; install it: pip install 'primenet-lightning[demo]'\n"
