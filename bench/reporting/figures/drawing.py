"""What all figures share: one look, one mark a method, and files that stay the same when drawn again."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator, NullFormatter, NullLocator
from PIL import Image

from bench.analysis.roles import Roles
from bench.reporting.figures.fonts import families
from bench.reporting.tables.table import display_names
from bench.tasks.catalogue import in_order
from bench.tasks.scores import TITLES

P = ParamSpec("P")

# Widths of a two-column page, in inches.
COLUMN, PAGE = 3.45, 7.1

STYLE: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.dpi": 180,
    # Fonts that publishers accept, and identifiers that do not change from one drawing to the next.
    "pdf.fonttype": 42,
    "svg.hashsalt": "figures",
}
INK, GREY = "#222222", "#767676"

# Okabe and Ito's palette without yellow (too pale on paper) and black (kept for the teacher), then darker hues of
# Tol's. Marker and line style run along with the colour, so that a print in grey stays legible.
_COLOURS: tuple[str, ...] = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3B08", "#542788",
    "#999933", "#882255", "#0B4F3C", "#3C3C8C",
)  # fmt: skip
_MARKERS: tuple[str, ...] = ("o", "D", "^", "v", "P", "X", "<", ">")
_LINES: tuple[Any, ...] = (
    "-", (0, (6, 2)), "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (10, 2)), (0, (8, 2, 2, 2)),
)  # fmt: skip


class Absent(Exception):
    """A figure has no data; the message says why, in a few words."""


@dataclass(frozen=True)
class Mark:
    """How a method looks in every figure, and what it is called there."""

    name: str
    colour: str
    marker: str
    line: Any

    @property
    def dots(self) -> dict[str, Any]:
        """Keywords of a marker without a line."""
        return {"color": self.colour, "marker": self.marker, "linestyle": "none"}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under the project's style, whatever the caller's own settings are, and settle the layout."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE | {"font.family": families()}):
            figure = draw(*args, **kwargs)
            settle(figure)
            return figure

    return inner


def marks(points: pd.DataFrame, roles: Roles) -> dict[str, Mark]:
    """A mark for each method in `points`, in the order of the legends: references, methods, ablations.

    Colours follow the alphabet, so all figures of one set of points agree; an ablation has the colour of the
    method it is taken from.
    """
    reference, depth_reference, ablations = roles.reference, roles.depth_reference, roles.ablations
    names = display_names(points)
    result = {}
    if reference in names:
        result[reference] = Mark(names.pop(reference), INK, "*", "-")
    if depth_reference is not None and depth_reference in names:
        result[depth_reference] = Mark(names.pop(depth_reference), GREY, "s", (0, (1, 1.2)))
    plain = [method for method in sorted(names) if method not in ablations]
    for i, method in enumerate(plain):
        result[method] = Mark(names[method], *look(i))
    for method in sorted(names.keys() - set(plain)):
        colour = result[ablations[method]].colour if ablations[method] in result else GREY
        result[method] = Mark(names[method], colour, "x", (0, (2, 1)))
    return result


def look(i: int) -> tuple[str, str, Any]:
    """Colour, marker and line of the i-th method. Of 24, no two share colour and marker, or marker and line."""
    return _COLOURS[i % len(_COLOURS)], _MARKERS[(i + 3 * (i // 8)) % 8], _LINES[i % len(_LINES)]


def task_order(points: pd.DataFrame, rows: pd.DataFrame | None = None) -> list[str]:
    """The tasks in `points`, in the catalogue's order, then the profile's own; only those of `rows`, if given."""
    there = set((points if rows is None else rows)["task"])
    return [task for task in in_order(points["task"]) if task in there]


def score_title(metric: str) -> str:
    """Axis title of scores, which figures print times 100."""
    return f"{TITLES.get(metric, metric)} × 100"


def panels(count: int, *, columns: int = 3, height: float = 1.75) -> tuple[Figure, list[Axes]]:
    """A page-wide grid of `count` panels of `height` inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(PAGE if columns > 1 else COLUMN * 1.25, rows * height + 0.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, the legend below not counted, with a canvas that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label_outer(grid: Sequence[Axes], x: str, y: str = "", *, columns: int = 3) -> None:
    """Name the axes of `panels` at the grid's left edge and below its last panel of each column."""
    for i, axes in enumerate(grid):
        if y and i % columns == 0:
            axes.set_ylabel(y)
        if i + columns >= len(grid):
            axes.set_xlabel(x)


def legend_below(figure: Figure, handles: Sequence[Any], *, columns: int = 4, note: str = "") -> None:
    """One legend below the whole figure, which grows by it, in as many of `columns` as there is room for.

    note: a line of small print above the entries.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    words: dict[str, Any] = {"title": note, "title_fontsize": 6.5, "alignment": "left"} if note else {}
    for ncols in range(max(1, min(columns, len(handles))), 0, -1):
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=ncols, columnspacing=1.4, labelspacing=0.35, **words
        )
        extent = legend.get_window_extent(renderer)
        if extent.width <= figure.bbox.width or ncols == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def settle(figure: Figure) -> None:
    """Find the places of everything once; what is drawn later has them."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def method_handles(rows: pd.DataFrame, looks: Mapping[str, Mark]) -> list[Line2D]:
    """Legend entries, marker only, of the methods that `rows` hold, in the order of the legends."""
    present = set(rows["method"])
    return [Line2D([], [], **mark.dots, label=mark.name) for method, mark in looks.items() if method in present]


def halo(width: float = 1.8) -> list[withStroke]:
    """A white outline that keeps text legible over lines."""
    return [withStroke(linewidth=width, foreground="white")]


def ratio_axis(axis: Axis, low: float, high: float) -> None:
    """Ticks of a log axis of speed-ups: 1x, 2x, 4x, ..., as fine as the range asks for."""
    steps = [2.0**k for k in range(-6, 13)]
    if high / low < 5:
        steps = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0]
    shown = [step for step in steps if low * 0.97 <= step <= high * 1.03]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.set_minor_locator(NullLocator())


class _Counts(Locator):
    """1, 2, 5 in every decade of a log axis; where that is less than two ticks, finer steps, but never a crowd."""

    def __call__(self) -> Any:
        assert self.axis is not None
        return self.tick_values(*sorted(self.axis.get_view_interval()))

    def tick_values(self, vmin: float, vmax: float) -> Any:
        decades = 10.0 ** np.arange(math.floor(math.log10(vmin)), math.ceil(math.log10(vmax)) + 1)
        for steps in ((1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 5.0, 7.0)):
            ticks = np.outer(decades, steps).ravel()
            ticks = ticks[(vmin <= ticks) & (ticks <= vmax)]
            if len(ticks) > 1:
                return ticks
        return MaxNLocator(4, min_n_ticks=3).tick_values(vmin, vmax)


def count_axis(axis: Axis) -> None:
    """Ticks of a log axis of big numbers: 200 M, 1 G."""
    axis.set_major_locator(_Counts())
    axis.set_major_formatter(FuncFormatter(lambda value, _: big(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def big(value: float) -> str:
    """1.5 G for 1.5e9: three digits and a prefix."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g}"


def padded(values: Iterable[float], share: float = 0.07) -> tuple[float, float]:
    """Limits of an axis a little beyond the finite `values`."""
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return 0.0, 1.0
    room = max((finite.max() - finite.min()) * share, 0.5)
    return float(finite.min() - room), float(finite.max() + room)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write <folder>/<name>.png and .pdf without dates or versions: the same drawing is the same file.

    The picture has a palette of 256 colours, chosen so that rare ones keep their own: no channel of a pixel was off
    by more than 18 of 255 levels, in 40 % of the bytes. Each file is drawn once: `Figure.savefig` would draw once
    more to find the layout, which is settled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    with matplotlib.rc_context(STYLE | {"font.family": families()}):
        settle(figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(png, optimize=True)
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return [png, pdf]
