"""The shared pictures draw what they are given, without a screen and without side effects."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch

from minigpt.autograd import Tensor
from minigpt.support import plots

matplotlib.use("Agg")

import itertools

import matplotlib.pyplot as plt

RECORDS = [
    {"step": 0, "loss": 6.0, "learning_rate": 0.1},
    {"step": 1, "loss": 2.5},
    {"step": 1, "val_loss": 2.4},
    {"step": 2, "loss": 2.0},
    {"step": 3, "val_loss": 1.9},
]


@pytest.fixture(autouse=True)
def closed():
    with matplotlib.rc_context():
        yield
    plt.close("all")


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_loss_curve_shows_both_curves_and_names_the_floor(tmp_path):
    figure = plots.loss_curve(RECORDS, floor=1.2345, path=tmp_path / "loss.png", title="a run")
    ax = figure.axes[0]
    assert labels(ax) == ["training", "validation (1.900)", "floor (1.234)"]
    assert ax.lines[0].get_xydata().tolist() == [[0, 6.0], [1, 2.5], [2, 2.0]]
    assert ax.lines[1].get_xydata().tolist() == [[1, 2.4], [3, 1.9]]
    assert ax.get_title(loc="left") == "a run"
    assert ax.get_ylim()[0] < 1.2345
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []  # nothing is left open


@pytest.mark.parametrize("records", [[], RECORDS[:1], [{"step": 0, "val_loss": 2.0}]])
def test_loss_curve_takes_few_records(records):
    assert len(plots.loss_curve(records).axes) == 1


def test_loss_curve_survives_a_loss_that_is_not_finite():
    records = [{"step": i, "loss": loss} for i, loss in enumerate([3.0, 2.0, float("nan")])]
    low, high = plots.loss_curve([*records, {"step": 3, "loss": float("inf")}]).axes[0].get_ylim()
    assert low < 2.0
    assert high < 10


def test_loss_curve_does_not_let_the_first_steps_flatten_the_rest():
    losses = [1000.0, 10.0, *([2.0] * 20)]
    figure = plots.loss_curve([{"step": i, "loss": loss} for i, loss in enumerate(losses)])
    assert figure.axes[0].get_ylim()[1] < 20


def test_loss_curve_shows_the_best_ngram():
    ax = plots.loss_curve(RECORDS, floor=1.2, ngram=2.2).axes[0]
    assert labels(ax)[-2:] == ["best n-gram (2.200)", "floor (1.200)"]


TASKS = {
    "first": {"score": 0.9, "low": 0.85, "high": 0.95, "baseline": 0.4},
    "second": {"score": 0.5, "low": 0.4, "high": 0.6, "baseline": 0.55},
}


def test_scores_draw_bar_interval_and_baseline():
    ax = plots.scores(TASKS, title="tasks").axes[0]
    assert [patch.get_width() for patch in ax.patches] == [0.9, 0.5]
    lines = [line.get_xdata() for line in ax.lines]
    assert [list(x) for x in lines] == [[0.85, 0.95], [0.4, 0.4], [0.4, 0.6], [0.55, 0.55]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["first", "second"]
    assert [text.get_text() for text in ax.texts] == ["90 %", "50 %"]
    low, high = ax.get_ylim()
    assert low > high  # the first is on top
    assert plt.get_fignums() == []


def test_svg_is_the_same_for_the_same_figure_and_has_the_pages_ink():
    first, second = (plots.to_svg(plots.scores(TASKS, "a <b> & c")) for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    assert "currentColor" in first
    assert "a &lt;b&gt; &amp; c" in first
    assert "first</text>" in first  # text stays text
    assert plots.to_svg(plots.loss_curve(RECORDS, 1.2)) != first


def test_heat_map_takes_tensors_and_leaves_nan_cells_white():
    weights = torch.tensor([[1.0, float("nan")], [0.25, 0.75]])
    ax = plots.heat_map(weights, ["a", "b"], ["long", "d"], numbers=True, bar=True)
    assert np.isnan(ax.images[0].get_array().filled(np.nan)[0, 1])
    assert [text.get_text() for text in ax.texts] == ["1", "0.25", "0.75"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert ax.images[0].get_clim() == (0.0, 1.0)


def test_heat_map_centres_the_colors_of_signed_values():
    ax = plots.heat_map([[-2.0, 1.0]], ["a"], ["b", "c"])
    assert ax.images[0].get_clim() == (-2.0, 2.0)


def test_heat_map_refuses_labels_that_do_not_fit():
    with pytest.raises(AssertionError, match=r"\(1, 2\), 1, 3"):
        plots.heat_map([[1.0, 2.0]], ["a"], ["b", "c", "d"])


def test_bars_write_their_values():
    ax = plots.bars({"one": 0.5, "two": 1.0}, percent=True, strong="two")
    assert [text.get_text() for text in ax.texts] == ["50 %", "100 %"]
    colors = [matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in ax.patches]
    assert colors == [plots.PALE.upper(), plots.BLUE]
    ax = plots.bars({"a count": 1200, "a loss": 1.0})
    assert [text.get_text() for text in ax.texts] == ["1,200", "1.00"]


def test_arcs_draw_one_arc_for_each_weight_that_counts():
    ax = plots.arcs(["a", "b", "c", "d"], [0.7, 0.295, 0.005, 0.0], start=3)
    widths = sorted(patch.get_linewidth() for patch in ax.patches)
    assert len(widths) == 2
    assert widths[0] < widths[1]
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c", "d"]


def test_colors_are_told_apart_in_grey():
    """Neighbors in the cycle differ in luminance, so a gray print still tells curves apart."""
    rgb = [matplotlib.colors.to_rgb(color) for color in plots.COLORS[:4]]
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in rgb]
    assert all(abs(a - b) > 0.03 for a, b in itertools.pairwise(luminance))
    assert len(set(plots.COLORS)) == len(plots.COLORS)


def test_drawing_changes_no_global_setting_and_use_style_does():
    before = dict(matplotlib.rcParams)
    plots.loss_curve(RECORDS)
    assert dict(matplotlib.rcParams) == before
    plots.use_style()
    assert matplotlib.rcParams["axes.spines.top"] is False


def test_importing_plots_does_not_import_matplotlib():
    code = "import sys, minigpt.support.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_computation_graph_names_nodes_and_writes_values_and_gradients():
    w, x = Tensor(3.0), Tensor(2.0)
    product = w * x
    loss = product + w
    loss.backward()
    ax = plots.computation_graph(loss, {"w": w, "loss": loss}, labels={(x, product): "slope 3"})
    assert {"w\n3", "2", "*\n6", "+   loss\n9", "slope 3"} <= set(texts(ax))
    assert sorted(t for t in texts(ax) if t in ("3", "1")) == ["1", "1", "3", "3"]  # gradients
    bare = texts(plots.computation_graph(loss, gradients=False))
    assert sorted(bare) == sorted(["3", "2", "*\n6", "+\n9"])


def test_computation_graph_shows_arrays_by_their_shape():
    x = Tensor(np.ones((5, 3)))
    assert "@\n5 × 2" in texts(plots.computation_graph((x @ np.ones((3, 2))).tanh()))


def test_a_graph_runs_from_left_to_right_and_no_two_nodes_share_a_place():
    x, y = Tensor(1.0), Tensor(2.0)
    a = x * y
    b = a + x
    root = b * a + y * y
    for node, (column, _) in (places := plots.graph_places(root)).items():
        assert all(places[parent][0] < column for parent in node.parents)
    assert len(set(places.values())) == len(places) == 7
    chain = x
    for _ in range(60):
        chain = chain + chain  # 2^60 paths, 61 places
    assert len(plots.graph_places(chain)) == 61


def test_loss_surface_draws_each_path_from_ring_to_dot():
    paths = {"a": [(2, 2), (1, 1)], "b": np.zeros((3, 2))}
    ax = plots.loss_surface(lambda x, y: x * x + y, (-3, 3), (-2, 2), paths, title="s")
    assert labels(ax) == ["a", "b"]
    assert ax.lines[0].get_xydata().tolist() == [[2, 2], [1, 1]]
    assert ax.lines[1].get_markerfacecolor() == "white"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-3, 3), (-2, 2))
    assert plots.loss_surface(lambda x, y: x * y, (0, 1), (0, 1)).get_legend() is None


def test_decision_boundary_colors_regions_and_draws_every_example():
    points, classes = np.array([[0.0, 0], [1, 1], [2, 0], [3, 1]]), np.array([0, 0, 1, 2])
    ax = plots.decision_boundary(lambda z: (z[:, 0] > 1.5).astype(int), points, classes)
    regions = ax.collections[0].get_array()
    assert set(np.unique(regions)) == {0, 1}
    assert [len(line.get_xydata()) for line in ax.lines] == [2, 1, 1]
    assert len({line.get_marker() for line in ax.lines}) == 3


def test_confusion_matrix_writes_counts_and_colors_shares_of_the_true_class():
    ax = plots.confusion_matrix([[8, 2], [0, 0]], ["a", "b"])
    assert texts(ax) == ["8", "2", "0", "0"]
    assert ax.images[0].get_array().tolist() == [[0.8, 0.2], [0, 0]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
