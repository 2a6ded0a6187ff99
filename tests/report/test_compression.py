"""The pictures of a compression show what its stages.json and its weights say."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from distaug.report.compression import channels, draw, masks, tradeoff
from distaug.store.model_files import NEEDED, write_model
from distaug.store.stages import StageRow, Stages

PARAMETERS = 1000


def row(name: str, top1: float, *, size: int = 4_800_000, zeros: float = 0, **values: Any) -> StageRow:
    numbers = {
        "file": f"{name}.onnx",
        "sha256": "",
        "model": None,
        "parameters": PARAMETERS,
        "nonzeros": round(PARAMETERS * (1 - zeros)),
        "macs": 1,
        "zlib_bytes": 1,
        "latency": {"1": {"speedup": 1.0}},
        "engine": {},
        "val": {"top1": top1},
        "drop": 0.0,
        "against": "fp32",
        "agreement": 1.0,
        "logit_snr_db": None,
        "passed": True,
        "reason": "",
        "seconds": 1.0,
    }
    return StageRow(name=name, bytes=size, **numbers | values)


def stages(*rows: StageRow, drop: float = 1.0, artifact: str | None = None) -> Stages:
    spec = {"gate": {"max_accuracy_drop": drop}}
    return Stages(spec=spec, weights_digest="", classes=["cat", "dog"], rows=list(rows), artifact=artifact)


BASE = row("fp32", 0.95)
SPARSE = [
    row(f"magnitude-{target}", 0.95 - target / 5000, zeros=target / 100, model="m") for target in (10, 20, 30, 50)
]
INT8 = row("int8", 0.945, size=1_200_000, latency={"1": {"speedup": 3.4}})
NARROW = row("channels", 0.946, size=2_500_000, model="c")
FULL = [
    BASE,
    *SPARSE,
    row("magnitude-80", 0.31, zeros=0.8, model="m", passed=False),
    NARROW,
    row("channels-2", 0.935, size=1_900_000, model="c", passed=False),
    INT8,
    row("dynamic", 0.946, size=2_480_000),
]


def names(axes: Axes) -> dict[str, Any]:
    """Return the names of the points by what comes before the comma."""
    return {text.get_text().split(",")[0]: text for text in axes.texts}


def marked(axes: Axes, label: str) -> list[tuple[float, float]]:
    """Return the points that the legend calls so."""
    lines = [line for line in axes.lines if line.get_label() == label]
    return [(x, y) for line in lines for x, y in np.asarray(line.get_xydata()).tolist()]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_the_files_that_the_rows_give_rise_to_are_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "compressed"
    folder.mkdir()
    assert draw(folder) == []
    card = dict.fromkeys(NEEDED)
    weights = {"conv.weight": torch.ones(8, 3, 3, 3).triu(), "head.weight": torch.ones(2, 8)}
    for model in (tmp_path / "model", folder / "m", folder / "c"):
        write_model(model, weights, card)
    for rows, expected in (
        ([BASE, INT8], ["tradeoff"]),
        ([BASE, SPARSE[0], INT8], ["tradeoff", "masks"]),
        ([BASE, NARROW, INT8], ["tradeoff", "channels"]),
    ):
        stages(*rows).write(folder)
        files = draw(folder)
        assert files == [folder / f"{name}.png" for name in expected]
        for file in files:
            pixels = np.asarray(Image.open(file).convert("L"))
            assert min(pixels.shape) > 150 and pixels.std() > 20, file


def test_each_file_is_a_point_with_its_name_and_speed() -> None:
    (axes,) = tradeoff(stages(BASE, INT8, artifact="int8")).axes
    assert sorted(marked(axes, "passed")) == [(1_200_000, 94.5), (4_800_000, 95.0)]
    assert [text.get_text() for text in names(axes).values()] == ["fp32, 1.0×", "int8, 3.4×"]
    assert [name for name, text in names(axes).items() if text.get_weight() == "bold"] == ["int8"]


def test_refused_files_are_hollow_and_the_gate_is_a_line() -> None:
    sizes, zeros = tradeoff(stages(*FULL)).axes
    assert [x for x, _ in marked(sizes, "refused")] == [4_800_000, 1_900_000]
    fills = {line.get_label(): to_hex(line.get_markerfacecolor()) for line in sizes.lines}
    assert fills["refused"] == "#ffffff" != fills["passed"]
    for axes in (sizes, zeros):
        assert [y for _, y in marked(axes, "gate, on val: fp32 − 1")] == pytest.approx([94, 94])


def test_the_curve_goes_from_the_uncompressed_model_over_the_zeros() -> None:
    _, zeros = tradeoff(stages(BASE, *SPARSE, INT8)).axes
    assert np.asarray(zeros.lines[0].get_xydata()) == pytest.approx(
        np.array([[0, 95], [10, 94.8], [20, 94.6], [30, 94.4], [50, 94]])
    )


def test_the_accuracy_is_that_of_the_test_set_once_all_are_judged() -> None:
    judged = [replace(r, test={"top1": r.val["top1"] - 0.1}) for r in (BASE, INT8)]
    (axes,) = tradeoff(stages(*judged)).axes
    assert axes.get_ylabel() == "test accuracy, %"
    assert [y for _, y in marked(axes, "passed")] == pytest.approx([85, 84.5])
    (axes,) = tradeoff(stages(judged[0], INT8)).axes
    assert axes.get_ylabel() == "val accuracy, %"
    assert [y for _, y in marked(axes, "passed")] == pytest.approx([95, 94.5])


def test_a_file_that_guesses_does_not_press_the_others_together() -> None:
    sizes, zeros = tradeoff(stages(*FULL)).axes
    assert sizes.get_ylim()[0] > 88
    assert min(marked(sizes, "refused"), key=lambda xy: xy[1])[1] == pytest.approx(90)
    assert names(sizes)["magnitude-80"].get_text() == "magnitude-80, 1.0×, ↓ 31.0"
    assert [text.get_text() for text in zeros.texts] == ["95.0", "94.8", "94.6", "94.4", "94.0", "↓ 31.0"]


@pytest.mark.parametrize(
    "rows",
    [
        FULL,
        [BASE, *(replace(BASE, name=f"magnitude-{n}") for n in range(9))],
        [BASE, INT8, replace(INT8, name="dynamic", bytes=1_900_000)],
    ],
)
def test_names_cover_neither_one_another_nor_points(rows: list[StageRow]) -> None:
    figure = tradeoff(stages(*rows))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    texts = names(axes)
    assert texts.keys() == {r.name for r in rows}
    # Of the text alone: the line that leads to its point may pass below another name.
    boxes = {name: text.get_bbox_patch().get_window_extent() for name, text in texts.items()}
    for (one, box), (other, other_box) in combinations(boxes.items(), 2):
        assert not box.overlaps(other_box), (one, other)
    for x, y in axes.transData.transform([*marked(axes, "passed"), *marked(axes, "refused")]):
        assert not any(box.contains(x, y) for box in boxes.values())


def test_a_mask_shows_what_is_left() -> None:
    weights = {
        "conv.bias": torch.zeros(4),
        "conv.weight": torch.tensor([[1.0, 0, 0, -1], [0, 2, 0, 0]]).view(2, 1, 2, 2),
        "head.weight": torch.ones(100, 300),
    }
    figure = masks("magnitude-50", weights)
    assert titles(figure) == ["conv\n2 × 4, 62 % zeros", "head\n100 × 300, 0 % zeros"]
    images: list[Any] = [axes.images[0] for axes in figure.axes]
    small, large = images
    assert np.asarray(small.get_array()).tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]
    assert to_hex(small.to_rgba(1)) == "#000000" and to_hex(small.to_rgba(0)) == "#ffffff"
    # Nothing is left out of the scale where a layer has no zeros.
    assert np.shape(large.get_array()) == (96, 96) and to_hex(large.to_rgba(1)) == "#000000"


def test_of_many_layers_twelve_are_drawn_from_the_first_to_the_last() -> None:
    figure = masks("magnitude-50", {f"layer{n}.weight": torch.ones(2, 2) for n in range(34)})
    shown = [int(title.split("\n")[0].removeprefix("layer")) for title in titles(figure)]
    assert shown == list(range(0, 34, 3))


def test_channels_are_bars_of_the_convolutions_before_and_after() -> None:
    def weights(*widths: int) -> dict[str, torch.Tensor]:
        convolutions = {f"conv{n}.weight": torch.ones(width, 3, 1, 1) for n, width in enumerate(widths)}
        return convolutions | {"head.weight": torch.ones(10, widths[-1])}

    (axes,) = channels(weights(16, 32, 64), weights(8, 24, 64)).axes
    bars = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert bars == {"before": [16, 32, 64], "after": [8, 24, 64]}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["conv0", "conv1", "conv2"]
