"""Pictures of what a compression gained and what it cost, drawn from its stages.json."""

import io
import re
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from distaug.store.checkpoint import Weights
from distaug.store.model_files import read_model
from distaug.store.place import Place
from distaug.store.stages import BASE_MODEL, StageRow, Stages
from distaug.store.whole import write_whole

__all__ = ["channels", "draw", "masks", "tradeoff"]

_MASKS = 12
"""Most masks on the page."""
_WINDOW = 96
"""Most rows and columns of a mask, so that single weights stay visible."""
_LINE, _LETTER = 0.05, 0.0125
"""Height of a line and width of a letter, as shares of the axes."""


def draw(folder: Place) -> list[Place]:
    """Draw what a compression came to, to PNG files beside its stages.json.

    Args:
        folder: The run's `compressed`.

    Returns:
        The files: `tradeoff`, then `masks` and `channels` if `magnitude` or `channels` has a row; none where
        nothing was compressed.

    Raises:
        StorageError: stages.json or the weights of a row cannot be read, or the folder cannot be written.
    """
    stages = Stages.read(folder)
    if stages is None or not stages.rows:
        return []
    figures = {"tradeoff": tradeoff(stages)}
    if sparse := _of_stage(stages, "magnitude"):
        figures["masks"] = masks(sparse[-1].name, _weights(folder, sparse[-1]))
    if narrow := _of_stage(stages, "channels"):
        figures["channels"] = channels(_weights(folder, stages.rows[0]), _weights(folder, narrow[-1]))
    files = []
    for name, figure in figures.items():
        drawn = io.BytesIO()
        FigureCanvasAgg(figure).print_png(drawn)  # type: ignore[no-untyped-call]
        files.append(folder / f"{name}.png")
        write_whole(files[-1], drawn.getvalue())
    return files


class _Point(NamedTuple):
    row: StageRow
    accuracy: float
    height: float
    """The accuracy, or the lower edge of the picture where that is higher."""

    @property
    def label(self) -> str:
        """The accuracy; an arrow says that it is below the edge."""
        return f"{'↓ ' if self.accuracy < self.height else ''}{self.accuracy:.1f}"


def tradeoff(stages: Stages) -> Figure:
    """Draw the accuracy of each file over its size and, in a second panel, over the zeros of magnitude pruning.

    It is the accuracy on the test set once every row has one, on the validation set before. A file far below the
    gate stands on the lower edge, with its accuracy beside it.

    Args:
        stages: With the row of the uncompressed file at least.
    """
    judged = all(row.test for row in stages.rows)
    accuracies = [100 * ((judged and row.test) or row.val)["top1"] for row in stages.rows]
    drop = stages.spec["gate"]["max_accuracy_drop"]
    limit = accuracies[0] - drop
    # A file that only guesses would press all others into one line at the top.
    floor = limit - 4 * max(drop, 0.5)
    points = [_Point(row, a, max(a, floor)) for row, a in zip(stages.rows, accuracies, strict=True)]
    sparse = _of_stage(stages, "magnitude")
    panels = 2 if sparse else 1
    figure = Figure(figsize=(5.5 * panels, 4), dpi=150, layout="constrained")
    sizes, *zeros = figure.subplots(1, panels, sharey=True, squeeze=False)[0]

    low, high = min(limit, *(point.height for point in points)), max(point.height for point in points)
    margin = max(high - low, 1) / 8
    sizes.set_ylim(low - margin, high + margin)
    sizes.set_xlim(0, 1.5 * max(row.bytes for row in stages.rows))  # names stand on the right
    sizes.set(xlabel="size of the file", ylabel=f"{'test' if judged else 'val'} accuracy, %")
    sizes.xaxis.set_major_formatter(EngFormatter("B"))
    sizes.set_title("×: speed-up for one picture; bold: the result", size=7)
    _draw_points(sizes, points, [point.row.bytes for point in points])
    _draw_names(sizes, points, stages.artifact)
    for axes in zeros:
        curve = [points[0], *(point for point in points if point.row in sparse)]
        shares = [100 * (1 - point.row.nonzeros / point.row.parameters) for point in curve]
        axes.plot(shares, [point.height for point in curve], color="tab:blue", lw=1)
        _draw_points(axes, curve, shares)
        for point, share in zip(curve, shares, strict=True):
            axes.annotate(point.label, (share, point.height), (3, 4), textcoords="offset points", size=7)
        axes.set_xlabel("parameters that are zero, %")
    for axes in (sizes, *zeros):
        label = f"gate, on val: {points[0].row.name} − {drop:g}"
        axes.axhline(limit, color="0.6", lw=0.8, ls="--", zorder=0, label=label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*sizes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def masks(name: str, weights: Weights) -> Figure:
    """Draw which weights of a pruned network are left: black, and white where they are zero.

    A row is an output channel. Of many layers the first, the last and some evenly between are drawn, of a large one
    the upper left corner.

    Args:
        name: What the title calls the network.
        weights: Its state dict.
    """
    layers = [layer for layer in sorted(weights, key=_in_order) if weights[layer].ndim >= 2]
    shown = min(len(layers), _MASKS)
    columns = min(shown, 4)
    rows = -(-shown // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows + 0.4), dpi=150, layout="constrained")
    figure.suptitle(
        f"{name}: weights that are left (black), output channels × inputs, the first {_WINDOW} of each", fontsize=8
    )
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[shown:]:
        axes.remove()
    for place, axes in enumerate(grid[:shown]):
        layer = layers[round(place * (len(layers) - 1) / max(shown - 1, 1))]
        mask = weights[layer].flatten(1) != 0
        axes.imshow(
            mask[:_WINDOW, :_WINDOW].numpy(), cmap="binary", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        share = 1 - float(mask.float().mean())
        title = f"{layer.removesuffix('.weight')}\n{mask.shape[0]} × {mask.shape[1]}, {100 * share:.0f} % zeros"
        axes.set_title(title, fontsize=7, pad=3)
        axes.set(xticks=[], yticks=[])
    return figure


def channels(before: Weights, after: Weights) -> Figure:
    """Draw how many output channels each convolution had and has.

    Args:
        before: State dict of the uncompressed network.
        after: State dict of the pruned one, with the same names.
    """
    layers = [layer for layer in sorted(after, key=_in_order) if after[layer].ndim == 4]
    names = [layer.removesuffix(".weight") for layer in layers]
    figure = Figure(figsize=(6, 0.17 * len(layers) + 1), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [len(before[layer]) for layer in layers], color="0.85", label="before")
    axes.barh(names, [len(after[layer]) for layer in layers], color="tab:blue", label="after")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("output channels")
    axes.tick_params("y", labelsize=7, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def _of_stage(stages: Stages, stage: str) -> list[StageRow]:
    """Return the rows of a stage, whose names may end in a target: `magnitude-30`."""
    return [row for row in stages.rows if row.name.partition("-")[0] == stage]


def _weights(folder: Place, row: StageRow) -> Weights:
    """Return the weights of a row that is not quantized; the uncompressed ones are the run's `model`."""
    own = row.model is not None and row.model != BASE_MODEL
    return read_model(folder / str(row.model) if own else folder.parent / "model")[0]


def _in_order(name: str) -> list[int | str]:
    """Return a key by which `layer2` comes before `layer10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _draw_points(axes: Axes, points: Sequence[_Point], places: Sequence[float]) -> None:
    """Draw points at their heights, hollow where the gate refused them."""
    for passed, fill, label in ((True, "tab:blue", "passed"), (False, "white", "refused")):
        chosen = [index for index, point in enumerate(points) if point.row.passed == passed]
        if chosen:
            x, y = [places[index] for index in chosen], [points[index].height for index in chosen]
            axes.plot(x, y, "o", ms=5, color="tab:blue", mfc=fill, label=label)


def _draw_names(axes: Axes, points: Sequence[_Point], artifact: str | None) -> None:
    """Write names and speed-ups right of the points, moved up or down to the nearest place where nothing is."""
    right, (bottom, top) = axes.get_xlim()[1], axes.get_ylim()
    dots = [(point.row.bytes / right, (point.height - bottom) / (top - bottom)) for point in points]
    names: list[tuple[float, float, float]] = []

    def free(start: float, end: float, y: float) -> bool:
        covers = any(start < dot_x < end and abs(dot_y - y) < _LINE / 2 for dot_x, dot_y in dots)
        return not covers and not any(start < e and s < end and abs(other - y) < _LINE for s, e, other in names)

    for point, (x, y) in sorted(zip(points, dots, strict=True), key=lambda pair: -pair[0].height):
        text = f"{point.row.name}, {point.row.latency['1']['speedup']:.1f}×"
        if point.accuracy < point.height:
            text += f", {point.label}"
        start = x + 0.025
        end = start + _LETTER * len(text)
        nearest = (y + sign * step * _LINE / 8 for step in count() for sign in (-1, 1))
        place = next(place for place in nearest if place > _LINE / 2 and free(start, end, place))
        names.append((start, end, place))
        axes.annotate(
            text,
            (point.row.bytes, point.height),
            (start, place),
            textcoords="axes fraction",
            va="center",
            size=7,
            bbox={"color": "white", "pad": 0.3},
            weight="bold" if point.row.name == artifact else "normal",
            arrowprops={"arrowstyle": "-", "color": "0.7", "lw": 0.5, "relpos": (0, 0.5)},
        )
