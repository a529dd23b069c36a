"""Figures of a large profile (twelve methods and the teacher, twelve exits, five seeds) remain readable."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from bench.analysis.comparing.resampling import Resamples
from bench.analysis.roles import Roles
from bench.reporting import figures
from bench.reporting.figures.drawing import appearances, marks

pytestmark = pytest.mark.slow

ROLES = Roles()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_results(
        tmp_path_factory.mktemp("large"), tasks=("cola", "rte"), seeds=(1, 2, 3, 4, 5), examples=60,
        contestants=synthetic.deep_contestants(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def points(large: Path) -> pd.DataFrame:
    """Some operating points give one answer to all."""
    points = synthetic.read_points(large)
    return points.assign(constant=(points["method"] == "costeff") & (points["speedup"] > 20))


@pytest.fixture(scope="module")
def drawn(points: pd.DataFrame, large: Path) -> dict[str, Figure]:
    resamples = Resamples(large / "runs", resamples=200)
    return {
        "frontier": figures.frontier(points, "cola", ROLES, resamples=resamples),
        "frontier of one seed": figures.frontier(points[points["seed"] == 1], "cola", ROLES, resamples=resamples),
        "average": figures.frontier_average(points, ROLES, resamples=resamples),
        "parameters": figures.score_against_cost(points, ROLES, cost=figures.COSTS["parameters"]),
        "latency": figures.promised_against_measured(points, ROLES),
        "score": figures.score_per_exit(points, ROLES, resamples=resamples),
        "histogram": figures.exit_histogram(points, ROLES),
        "difficulty": figures.exit_against_difficulty(points, ROLES, runs=large / "runs"),
    }


def test_forty_methods_differ_in_colour_and_in_grey() -> None:
    looks = appearances({f"method-{i}": "" for i in range(40)}).values()
    assert len({(colour, marker) for colour, marker, _ in looks}) == 40
    assert len({(marker, str(line)) for _, marker, line in looks}) == 40
    assert len({colour for colour, *_ in appearances({f"own-{i}": "" for i in range(8)}).values()}) == 8


def test_every_method_of_a_large_profile_looks_its_own_way(points: pd.DataFrame) -> None:
    looks = list(marks(points, ROLES).values())
    assert len(looks) == 13
    assert len({(mark.colour, mark.marker) for mark in looks}) == len({(m.marker, str(m.line)) for m in looks}) == 13


def test_nothing_leaves_the_canvas_and_the_plots_keep_most_of_it(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert max(-box.x0, -box.y0, box.x1 - width, box.y1 - height) < 0.02, name
        share = sum(np.prod(axes.get_position().size) for axes in figure.axes)
        assert share > 0.25, f"{name}: its axes have {100 * share:.0f} % of the picture"


def test_the_legend_names_every_method_and_covers_none_of_the_axes(
    drawn: dict[str, Figure], points: pd.DataFrame
) -> None:
    for name, figure in drawn.items():
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert all(not box.overlaps(axes.get_window_extent()) for axes in figure.axes), name
    names = {mark.name for mark in marks(points, ROLES).values()}
    for name in ("frontier", "average", "parameters"):
        assert {text.get_text() for text in drawn[name].legends[0].get_texts()} >= names


def test_names_of_variants_lie_inside_and_not_on_each_other(drawn: dict[str, Figure]) -> None:
    for name in ("frontier", "frontier of one seed", "parameters"):
        drawn[name].draw_without_rendering()  # computes the positions of the labels
        axes: Axes = drawn[name].axes[0]
        inside = axes.get_window_extent()
        # The title and the upper axis's name are placed by the axes, not by points.
        labels = [t for t in axes.texts if isinstance(t, Annotation) and t.xycoords == "data"]
        assert len(labels) > 5
        if name == "parameters":
            assert {label.get_text() for label in labels} >= {"2x", "4x", "8x", "4L-312", "6L-768"}
        boxes = [Text.get_window_extent(label) for label in labels]
        for box in boxes:
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1, name
        assert [pair for pair in combinations(boxes, 2) if overlap(*pair) > 1] == [], name


def overlap(a: Bbox, b: Bbox) -> float:
    return max(0, min(a.x1, b.x1) - max(a.x0, b.x0)) * max(0, min(a.y1, b.y1) - max(a.y0, b.y0))


def test_no_band_is_cut_off_by_the_axes(drawn: dict[str, Figure]) -> None:
    for name in ("frontier", "frontier of one seed", "average"):
        axes: Axes = drawn[name].axes[0]
        low, high = axes.get_ylim()
        edges = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in axes.collections])
        assert len(axes.collections) > 5
        assert low <= edges.min() and edges.max() <= high, name


def test_points_that_answer_all_alike_are_hollow_faint_and_named(drawn: dict[str, Figure]) -> None:
    figure = drawn["frontier"]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "hollow, in any colour: same answer for all examples" in entries
    hollow = [
        line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())
    ]
    assert hollow and all((line.get_alpha() or 1) < 0.5 for line in hollow)
    full = max(line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "*")
    assert all((full / np.asarray(line.get_xdata()) > 15).all() for line in hollow)
