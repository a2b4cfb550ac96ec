"""The pictures that chapters and run reports share, in one style that color-blind readers can use.

Matplotlib is imported inside the functions, so that nothing waits for it until a picture is wanted.
Nothing here opens a window: functions return a figure, or draw on the axes that they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Okabe and Ito's palette (2008): distinct for every common kind of color vision.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, GRAY, PALE = "#56B4E9", "#E69F00", "#767676", "#b8c4d0"
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
HEAT = "cividis"  # one hue direction, readable in gray and by color-blind readers

STYLE: dict[Any, Any] = {
    "figure.dpi": 100,
    "figure.figsize": (6.4, 3.4),
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}


def use_style() -> None:
    """Give every later picture of this session the house style."""
    import matplotlib
    from cycler import cycler

    style: dict[Any, Any] = {**STYLE, "axes.prop_cycle": cycler(color=COLORS)}
    matplotlib.rcParams.update(style)


def loss_curve(
    records: Sequence[dict],
    floor: float | None = None,
    path: Path | None = None,
    title: str = "",
    ngram: float | None = None,
) -> Figure:
    """Draw training and validation loss over steps, with the floor as a line that names its value.

    records: rows of metrics.jsonl, {"step", "loss", ...} and {"step", "val_loss", ...}; losses in
    nats per token. ngram: the loss of the best n-gram model, another line. Saves a PNG where a path
    is given.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure()
        ax = figure.subplots()
        train = [(row["step"], row["loss"]) for row in records if row.get("loss") is not None]
        held_out = [
            (row["step"], row["val_loss"]) for row in records if row.get("val_loss") is not None
        ]
        if train:
            ax.plot(*zip(*train, strict=True), color=SKY, lw=1.2, label="training")
        if held_out:
            label = f"validation ({held_out[-1][1]:.3f})"
            ax.plot(*zip(*held_out, strict=True), color=BLUE, marker="o", ms=4, label=label)
        if ngram is not None:
            ax.axhline(ngram, color=GREEN, ls=":", lw=1.6, label=f"best n-gram ({ngram:.3f})")
        if floor is not None:
            ax.axhline(floor, color=ORANGE, ls="--", lw=1.4, label=f"floor ({floor:.3f})")
        ax.set(xlabel="step", ylabel="loss (nats per token)", title=_plain(title))
        _limit_losses(ax, [loss for _, loss in train + held_out], floor)
        if ax.get_legend_handles_labels()[1]:
            ax.legend()
        if path is not None:
            figure.savefig(path)
    return figure


def _limit_losses(ax: Axes, losses: list[float], floor: float | None) -> None:
    """Cut the first steps' height where it would flatten the rest: show at most 4 times the end."""
    finite = [loss for loss in losses if loss == loss and abs(loss) != float("inf")]
    if not finite:
        return
    low = min(finite + ([floor] if floor is not None else []))
    tail = sorted(finite)[len(finite) // 2]  # the median is past the steep start
    high = min(max(finite), low + 4 * max(tail - low, 1e-3))
    ax.set_ylim(low - 0.06 * (high - low + 1e-3), high + 0.06 * (high - low + 1e-3))


def scores(tasks: dict[str, dict], title: str = "") -> Figure:
    """Draw a bar for each task's score with its 95 % interval, and a mark at its best baseline.

    tasks: {name: {"score", "low", "high", "baseline"}}, all from 0 to 1, as in report.json.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.2 + 0.32 * len(tasks)))
        ax = figure.subplots()
        for place, task in enumerate(tasks.values()):
            ax.barh(place, task["score"], color=BLUE, height=0.62)
            ax.plot([task["low"], task["high"]], [place, place], color=GRAY, lw=2.4)
            ax.plot([task["baseline"]] * 2, [place - 0.42, place + 0.42], color=ORANGE, lw=2.4)
            ax.text(1.02, place, f"{100 * task['score']:.0f} %", va="center")
        names = [_plain(name[:30]) for name in tasks]
        ax.set(xlim=(0, 1.12), yticks=range(len(tasks)), yticklabels=names, title=_plain(title))
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
        ax.set_xlabel("gray: 95 % interval, orange: best baseline")
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
    return figure


def _plain(text: str) -> str:
    """Keep matplotlib from reading a formula between dollar signs."""
    return text.replace("$", r"\$")


def to_svg(figure: Figure, inches: float = 4.6) -> str:
    """Return a figure as an <svg> element whose text and axes take the color of the page's text.

    It is made `inches` wide, so that its letters can be read on a phone. Nothing in it refers to a
    file or the network; equal figures give equal text.
    """
    import io
    import warnings

    import matplotlib

    ink = "#010203"  # stands for the page's own color
    figure.set_size_inches(inches, figure.get_figheight())
    for ax in figure.axes:
        left_title: Text = vars(ax)["_left_title"]  # matplotlib has no public name for it
        texts = [ax.xaxis.label, ax.yaxis.label, ax.title, left_title, *ax.texts]
        legend = ax.get_legend()
        for text in [*texts, *(legend.get_texts() if legend else [])]:
            text.set_color(ink)
        ax.tick_params(colors=ink)
    page = io.StringIO()
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "minigpt",
    }  # the page has the fonts
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # its own lacks Chinese
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None})
    svg = page.getvalue()
    svg = svg.replace(f"stroke: {STYLE['grid.color']}", "stroke: currentColor; opacity: 0.15")
    return svg[svg.index("<svg") :].replace(ink, "currentColor")


def heat_map(
    weights: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    ax: Axes | None = None,
    title: str = "",
    numbers: bool = False,
    most: float | None = None,
    bar: bool = False,
) -> Axes:
    """Draw a matrix as colored cells, a word at each row and column; NaN cells stay white.

    weights (len(rows), len(columns)) may be a tensor, an array or nested lists. The colors run
    from 0 to `most` (None: the largest value). numbers: write each value into its cell.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    values = np.asarray(weights, dtype=float)
    assert values.shape == (len(rows), len(columns)), (values.shape, len(rows), len(columns))
    if ax is None:
        _, ax = plt.subplots(figsize=(max(4.0, 1.6 + 0.34 * len(columns)), 1.2 + 0.28 * len(rows)))
    top = float(np.nanmax(np.abs(values))) if most is None else most
    low = 0.0 if np.nanmin(values) >= 0 else -top
    image = ax.imshow(values, cmap=HEAT if low == 0 else "PuOr", vmin=low, vmax=top, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 2 else 0)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(title)
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if numbers:
        _write_numbers(ax, values, low, top)
    if bar:
        ax.figure.colorbar(image, ax=ax, shrink=0.8).outline.set_visible(False)
    return ax


def _write_numbers(ax: Axes, values: Any, low: float, top: float) -> None:
    """Write each finite value into its cell, dark on light cells and light on dark ones."""
    import numpy as np

    for (row, column), value in np.ndenumerate(values):
        if value == value:
            bright = value > 0.6 * top if low == 0 else abs(value) < 0.6 * top
            text = f"{value:.2f}".rstrip("0").rstrip(".")
            color = "black" if bright else "white"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=8)


def bars(
    values: dict[str, float],
    ax: Axes | None = None,
    title: str = "",
    percent: bool = False,
    strong: str = "",
) -> Axes:
    """Draw one horizontal bar a name, first on top, with its value written at its end.

    Counts (int) are written whole. strong: bars whose name lacks these letters are drawn pale.
    """
    import matplotlib.pyplot as plt

    def written(value: float) -> str:
        if percent:
            return f"{100 * value:.0f} %"
        return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 0.8 + 0.38 * len(values)))
    names, heights = list(values), list(values.values())
    drawn = ax.barh(names, heights, color=[BLUE if strong in name else PALE for name in names])
    ax.bar_label(drawn, [written(height) for height in heights], padding=4)
    ax.invert_yaxis()
    ax.margins(x=0.16)
    ax.grid(visible=False)
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    ax.set_title(title)
    return ax


def arcs(
    words: Sequence[str],
    weights: Sequence[float],
    start: int,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw a sentence and an arc from the word at `start` to each word, as thick as its weight."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Arc

    if ax is None:
        _, ax = plt.subplots(figsize=(max(6.4, 0.27 * len(words)), 2.2))
    for place, weight in enumerate(weights):
        if weight > 0.01 and place != start:
            width = abs(start - place)
            middle = (start + place) / 2
            style = {"color": ORANGE, "lw": 0.5 + 4 * weight, "alpha": 0.25 + 0.75 * weight}
            ax.add_patch(Arc((middle, 0.0), width, 2.0, theta1=0, theta2=180, **style))
    strongest = max(range(len(words)), key=lambda i: weights[i])
    for place, word in enumerate(words):
        color = BLUE if place == start else ORANGE if place == strongest else "black"
        bold = "bold" if place in (start, strongest) else "normal"
        ax.text(
            place, -0.06, word, rotation=90, ha="center", va="top", color=color, fontweight=bold
        )
    ax.set(xlim=(-1, len(words)), ylim=(-0.7, 1.1), title=title)
    ax.axis("off")
    return ax


def computation_graph(
    root: Any,
    names: dict[str, Any] | None = None,
    labels: dict[tuple, str] | None = None,
    gradients: bool = True,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw what `root` was computed from, left to right; gradients are written below in orange.

    A node is any object with parents, op, data and grad. names: how to call nodes. labels: text at
    the arrow from one node to another, {(from, to): text}. Arrays are shown by their shape.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    places = graph_places(root)
    xs, ys = np.transpose(list(places.values()))
    if ax is None:
        width, height = 1 + np.ptp(xs), 1 + np.ptp(ys)
        _, ax = plt.subplots(figsize=(1.5 * width + 0.4, 0.85 * height + 0.5))
    known = {id(node): name for name, node in (names or {}).items()}
    boxes = {}
    for node, (x, y) in places.items():
        face = "#fbe3d6" if node is root else "white" if node.parents else "#dcebf7"
        style = {"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": GRAY}
        text = _node_text(node, known.get(id(node), ""))
        boxes[node] = ax.text(x, y, text, ha="center", va="center", bbox=style, zorder=3)
        if gradients:
            down = -19 if "\n" in text else -12
            below = {"xytext": (0, down), "textcoords": "offset points", "zorder": 4}
            ax.annotate(_short(node.grad), (x, y), ha="center", va="top", color=ORANGE, **below)
    for node in places:
        for number, parent in enumerate(node.parents):
            far = places[node][0] - places[parent][0] > 1  # go round what stands between
            twice = node.parents.count(parent) > 1
            bend = (0.25, -0.25)[number % 2] if twice else -0.3 if far else 0.0
            _arrow(ax, boxes, (parent, node), bend, (labels or {}).get((parent, node), ""))
    ax.set(xlim=(xs.min() - 0.5, xs.max() + 0.5), ylim=(ys.min() - 0.65, ys.max() + 0.5))
    ax.set_title(title)
    ax.axis("off")
    return ax


def graph_places(root: Any) -> dict[Any, tuple[float, float]]:
    """Place nodes in a plane, {node: (column, height)}, each left of all that is made from it."""
    column: dict[Any, int] = {}

    def push_left(node: Any, distance: int) -> None:
        if distance > column.get(node, -1):
            column[node] = distance
            for parent in node.parents:
                push_left(parent, distance + 1)

    push_left(root, 0)
    height: dict[Any, float] = {}

    def stack(node: Any) -> float:
        if node not in height:
            above = [stack(parent) for parent in node.parents]
            slot = -sum(1 for other in height if not other.parents)
            height[node] = sum(above) / len(above) if above else slot
        return height[node]

    stack(root)
    for each in set(column.values()):  # no two nodes of a column on one spot
        inside = sorted((n for n in column if column[n] == each), key=lambda n: -height[n])
        for upper, lower in pairwise(inside):
            height[lower] = min(height[lower], height[upper] - 1)
    return {node: (-float(column[node]), height[node]) for node in column}


def _node_text(node: Any, name: str) -> str:
    """Write a node: its name or operator, and its value."""
    value = _short(node.data)
    head = "   ".join(part for part in (node.op, name) if part)
    return f"{head}\n{value}" if head else value


def _short(value: Any) -> str:
    """Write a number with up to four digits, an array as its shape."""
    import numpy as np

    array = np.asarray(value)
    if array.ndim == 1 and array.size > 1:
        return f"{array.size} values"
    return f"{array.item():.4g}" if array.size == 1 else " × ".join(map(str, array.shape))


def _arrow(ax: Axes, boxes: dict, ends: tuple, bend: float, text: str) -> None:
    """Draw an arrow between two boxes, with a text at its middle."""
    start, end = (boxes[node].get_position() for node in ends)
    patches = {"patchA": boxes[ends[0]].get_bbox_patch(), "patchB": boxes[ends[1]].get_bbox_patch()}
    style = {"arrowstyle": "-|>", "color": GRAY, "lw": 1.2, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", end, start, arrowprops=style | patches | {"shrinkA": 1, "shrinkB": 1}, zorder=2)
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - bend * (end[0] - start[0]) / 2)
        white = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"}
        ax.text(
            *middle, text, ha="center", va="center", color=BLUE, fontsize=9, bbox=white, zorder=5
        )


def loss_surface(
    loss: Callable[[float, float], float],
    across: Sequence[float],
    up: Sequence[float],
    paths: dict[str, Any] | None = None,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draw a loss of two parameters as a map with height lines, and paths of optimizers over it.

    across, up: (lowest, highest) value of the first and of the second parameter. paths: {name:
    positions (steps + 1, 2)}; a ring marks the start, a dot the end. Lines are closer near the
    lowest point than their heights are: each is a fixed share of the way up, squared.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    if ax is None:
        _, ax = plt.subplots(figsize=(5.4, 4.2))
    x, y = np.linspace(across[0], across[1], 81), np.linspace(up[0], up[1], 81)
    heights = np.array([[float(loss(a, b)) for a in x] for b in y])
    levels = heights.min() + (heights.max() - heights.min()) * np.linspace(0, 1, 16) ** 2
    ax.contourf(x, y, heights, levels=levels, cmap=HEAT, alpha=0.75)
    ax.contour(x, y, heights, levels=levels, colors="white", linewidths=0.7)
    for (name, path), color in zip((paths or {}).items(), COLORS[1:] + COLORS[:1], strict=False):
        points = np.asarray(path, dtype=float)
        ax.plot(*points.T, color=color, marker=".", ms=4, lw=1.4, label=name)
        ax.plot(*points[0], "o", color=color, mfc="white", ms=7)
        ax.plot(*points[-1], "o", color=color, ms=7)
    ax.set(xlim=across, ylim=up, title=title)
    ax.grid(False)
    if paths:
        ax.legend(loc="best", frameon=True, fontsize=9)
    return ax


def decision_boundary(
    classify: Callable[[Any], Any],
    points: Any,
    classes: Any,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Color the plane by the class that a model gives to each place, and draw the true examples.

    classify: places (n, 2) -> class numbers (n,). points (N, 2), classes (N,): the examples, each
    class with a color and a marker of its own.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import ListedColormap

    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 3.8))
    points, classes = np.asarray(points), np.asarray(classes)
    margin = 0.12 * np.ptp(points, axis=0)
    (left, low), (right, high) = points.min(axis=0) - margin, points.max(axis=0) + margin
    x, y = np.meshgrid(np.linspace(left, right, 161), np.linspace(low, high, 161))
    regions = np.asarray(classify(np.stack([x.ravel(), y.ravel()], axis=1))).reshape(x.shape)
    colors = ListedColormap(COLORS)
    ax.pcolormesh(
        x,
        y,
        regions,
        cmap=colors,
        vmin=0,
        vmax=len(COLORS) - 1,
        alpha=0.18,
        shading="auto",
        rasterized=True,
    )
    for number in np.unique(classes):
        own = points[classes == number]
        style = {"color": COLORS[number], "marker": "osD^vP"[number], "ms": 4.5, "mec": "white"}
        ax.plot(*own.T, ls="", mew=0.5, **style)
    ax.set(xlim=(left, right), ylim=(low, high), title=title)
    ax.grid(False)
    return ax


def confusion_matrix(
    matrix: Any, names: Sequence[str], ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw counts of (true class, predicted class); colors show the share of each true class."""
    import numpy as np

    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = heat_map(shares, names, names, ax=ax, title=title, most=1.0)
    for (row, column), count in np.ndenumerate(counts):
        color = "black" if shares[row, column] > 0.6 else "white"
        ax.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    ax.set(xlabel="predicted", ylabel="true")
    return ax
