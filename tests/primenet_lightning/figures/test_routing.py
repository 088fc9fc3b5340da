from PIL import Image

from primenet_lightning.figures.routing import draw_routing
from primenet_lightning.figures.style import COLOURS


def colours_of(path):
    with Image.open(path) as picture:
        return {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in picture.convert("RGB").getcolors(10**6)}


def test_picture_of_four_blocks_of_eight_capsules(tmp_path):
    names = [f"block{block}.k{2 * place + 3}" for block in range(4) for place in range(8)]
    history = [
        (epoch, {f"share/{name}": (place % 8 + epoch) / 36 for place, name in enumerate(names)}
         | {f"{kind}/block{block}": 0.1 * block for block in range(4) for kind in ("switches", "margin")})
        for epoch in range(3)
    ]  # fmt: skip
    figure = draw_routing(history)
    figure.savefig(tmp_path / "routing.png")
    assert {*COLOURS} <= colours_of(tmp_path / "routing.png")
    shares, others = figure.axes[:4], figure.axes[4:]
    assert [[line.get_label() for line in axes.lines] for axes in shares] == [names[i : i + 8] for i in (0, 8, 16, 24)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"k{size}" for size in range(3, 18, 2)]
    assert [axes.get_ylabel() for axes in others] == ["margin (nats)", "switches a batch"]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in shares[0].lines}
    assert len(looks) == 8
