"""Labels of points that do not overlap each other and stay inside the plot."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import pts_to_poststep
from numpy.typing import NDArray

from bench.reporting.figures.drawing import halo, settle

SIZE = 6.5
# Directions around a point, the preferred one first, and distances in typographic points; a label beyond the first
# distance is joined to its point by a thin line.
_AROUND = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (4.5, 11.0, 18.0, 26.0, 36.0)


class Label(NamedTuple):
    """The label of a point, in data coordinates."""

    x: float
    y: float
    text: str
    colour: str


def place(axes: Axes, labels: Sequence[Label], avoid: NDArray[np.float64] | None = None) -> None:
    """Write each label at the best place around its point: the one with the least overlap.

    Call this last, since it fixes the layout of the whole figure.

    Args:
        axes: the plot.
        labels: the labels, the most important one first.
        avoid: other points [N, 2] that labels cover, as they do lines, only where there is no better place.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    settle(figure)
    renderer, scale = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    frame = np.array([inside.x0, inside.y0, inside.x1, inside.y1])
    points = axes.transData.transform(np.array([[label.x, label.y] for label in labels if label.text] or [[1.0, 1.0]]))
    dots = np.vstack([points, *_lines(axes)])
    if avoid is not None and len(avoid):
        dots = np.vstack([dots, axes.transData.transform(avoid)])
    there = [text.get_window_extent(renderer) for text in axes.texts]
    taken = [np.array([box.x0, box.y0, box.x1, box.y1]) for box in there]
    for label in [label for label in labels if label.text]:
        anchor = axes.transData.transform((label.x, label.y))
        words: dict[str, Any] = {"fontsize": SIZE, "fontweight": "bold", "ha": "center", "va": "center"}
        measured = axes.text(label.x, label.y, label.text, **words)
        extent = measured.get_window_extent(renderer)
        measured.remove()
        size = np.array([extent.width, extent.height])
        offsets = [(np.array(way) * (far * scale + size / 2), far) for far in _DISTANCES for way in _AROUND]
        boxes = np.array([np.concatenate([anchor + o - size / 2, anchor + o + size / 2]) for o, _ in offsets])
        costs = [_cost(box, frame, taken, dots) + 0.01 * rank for rank, box in enumerate(boxes)]
        best = int(np.argmin(costs))
        offset, far = offsets[best]
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": label.colour, "shrinkA": 0, "shrinkB": 1}
        axes.annotate(
            label.text, (label.x, label.y), xytext=tuple(offset / scale), textcoords="offset points",
            color=label.colour, path_effects=halo(), zorder=7, arrowprops=line if far > _DISTANCES[0] else None,
            **words,
        )  # fmt: skip
        taken.append(boxes[best])


def _lines(axes: Axes) -> list[NDArray[np.float64]]:
    """Return points [N, 2] in pixels along each line of the plot, less than a label's height apart."""
    found = []
    for line in axes.get_lines():
        corners = line.get_transform().transform(line.get_xydata())
        corners = corners[np.isfinite(corners).all(axis=1)]
        if line.get_linestyle() in ("None", "none") or len(corners) < 2:
            continue
        if line.get_drawstyle() == "steps-post":
            corners = np.asarray(pts_to_poststep(*corners.T), float).T
        along = np.concatenate([[0.0], np.hypot(*np.diff(corners, axis=0).T).cumsum()])
        steps = np.arange(0, along[-1], SIZE)
        found.append(np.column_stack([np.interp(steps, along, each) for each in corners.T]))
    return found


def _cost(
    box: NDArray[np.float64],
    frame: NDArray[np.float64],
    taken: list[NDArray[np.float64]],
    dots: NDArray[np.float64],
) -> float:
    """Return the cost of a place: 1,000 for a label that is covered or outside, and 0.05 for each point below it."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    overlap = sum(_shared(box, other) for other in taken) + area - _shared(box, frame)
    covered = (dots > box[:2] - 1).all(axis=1) & (dots < box[2:] + 1).all(axis=1)
    return float(1000 * overlap / area + 0.05 * covered.sum())


def _shared(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the common area of two boxes (left, bottom, right, top)."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return float(np.prod(sides)) if (sides > 0).all() else 0.0
