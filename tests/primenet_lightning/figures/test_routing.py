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
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == sorted(names)
    assert [axes.get_ylabel() for axes in others] == ["margin (nats)", "switches per batch"]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in shares[0].lines}
    assert len(looks) == 8


def test_where_nothing_is_routed_the_picture_speaks_of_the_least_loss():
    """The first block hands on all maps, the second one capsule's."""
    means = {"least_loss/block0.k3": 0.25, "least_loss/block0.k5": 0.75, "share/block1.k3": 1.0, "share/block1.k5": 0.0}
    means |= {"changes/block0": 0.5, "switches/block1": 0.25, "margin/block0": 0.1, "margin/block1": 0.2}
    figure = draw_routing([(0, means), (1, means)])
    assert [axes.get_ylabel().replace("\n", " ") for axes in figure.axes] == [
        "block0: share with the least loss",
        "block1: share of batches routed",
        "margin (nats)",
        "switches per batch",
        "changes of the least loss, per batch",
    ]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0.25, 0.25], [0.75, 0.75]]
    assert [[line.get_label() for line in axes.lines] for axes in figure.axes[3:]] == [["block1"], ["block0"]]


def test_a_legend_has_a_row_for_each_block():
    names = [f"block{block}.k{size}" for block in range(3) for size in (3, 5)]
    figure = draw_routing([(0, {f"share/{name}": 0.5 for name in names} | {"switches/block0": 0.0})])
    figure.draw_without_rendering()
    row_by_name = {text.get_text(): round(text.get_window_extent().y0) for text in figure.legends[0].get_texts()}
    rows = sorted(set(row_by_name.values()), reverse=True)
    assert [rows.index(row_by_name[name]) for name in names] == [0, 0, 1, 1, 2, 2]
