"""The pictures that chapters and run reports share, in one style that colour-blind readers can use.

Matplotlib is imported inside the functions, so that nothing waits for it until a picture is wanted.
Nothing here opens a window: functions return a figure, or draw on the axes that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008): distinct for every common kind of colour vision.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, GREY, PALE = "#56B4E9", "#E69F00", "#767676", "#b8c4d0"
COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)
HEAT = "cividis"  # one hue direction, readable in grey and by colour-blind readers

STYLE = {
    "figure.dpi": 100,
    "figure.figsize": (6.4, 3.4),
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
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

    matplotlib.rcParams.update(STYLE | {"axes.prop_cycle": cycler(color=COLORS)})


def loss_curve(
    records: Sequence[dict], floor: float | None = None, path: Path | None = None, title: str = ""
) -> Figure:
    """Draw training and validation loss over steps, with the floor as a line that names its value.

    records: rows of metrics.jsonl, {"step", "loss", ...} and {"step", "val_loss", ...}; losses in
    nats per token. Saves a PNG where a path is given.
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
        if floor is not None:
            ax.axhline(floor, color=ORANGE, ls="--", lw=1.4, label=f"floor ({floor:.3f})")
        ax.set(xlabel="step", ylabel="loss (nats per token)", title=title)
        _limit_losses(ax, [loss for _, loss in train + held_out], floor)
        if train or held_out or floor is not None:
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


def heat_map(
    weights: Any, rows: Sequence[str], columns: Sequence[str], ax: Axes | None = None,
    title: str = "", numbers: bool = False, most: float | None = None, bar: bool = False,
) -> Axes:  # fmt: skip
    """Draw a matrix as coloured cells, a word at each row and column; NaN cells stay white.

    weights (len(rows), len(columns)) may be a tensor, an array or nested lists. The colours run
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
    values: dict[str, float], ax: Axes | None = None, title: str = "", percent: bool = False,
    strong: str = "",
) -> Axes:  # fmt: skip
    """Draw one horizontal bar a name, first on top, with its value written at its end.

    strong: bars whose name lacks these letters are drawn pale.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 0.8 + 0.38 * len(values)))
    names, heights = list(values), list(values.values())
    drawn = ax.barh(names, heights, color=[BLUE if strong in name else PALE for name in names])
    ax.bar_label(drawn, [f"{100 * h:.0f} %" if percent else f"{h:.2f}" for h in heights], padding=4)
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
