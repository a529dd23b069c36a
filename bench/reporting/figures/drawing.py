"""What all figures share: style, one mark for each method, axes, and reproducible files."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec
from zlib import crc32

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

from bench.analysis.metrics import TITLES
from bench.analysis.roles import Roles
from bench.reporting.tables.format import table
from bench.tasks.catalogue import in_order

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
    # Fonts that publishers accept; identifiers that are the same in every drawing.
    "pdf.fonttype": 42,
    "svg.hashsalt": "figures",
}
INK, GREY = "#222222", "#767676"

# Marks of known methods, by the usual name of their contestant; colours of Okabe and Ito, then of Tol. Marker and line
# style differ with the colour, so that a print in grey stays legible.
_KNOWN: dict[str, tuple[str, str, Any]] = {
    "costeff": ("#D55E00", "o", "-"),
    "assistant": ("#CC79A7", "P", (0, (10, 2))),
    "distilbert": ("#009E73", "^", "-."),
    "tinybert": ("#0072B2", "D", (0, (6, 2))),
    "pabee": ("#542788", ">", (0, (5, 1, 1, 1, 1, 1))),
    "cascadebert": ("#56B4E9", "v", (0, (8, 2, 2, 2))),
    "teacher-long": ("#7F3B08", "X", (0, (3, 1))),
    "search": ("#E69F00", "<", (0, (6, 2))),
}
# How the labels of these methods begin, the longest first: contestants may have any name.
_LABELS = {
    "COST-EFF assistant": "assistant",
    "COST-EFF": "costeff",
    "DistilBERT": "distilbert",
    "TinyBERT": "tinybert",
    "PABEE": "pabee",
    "CascadeBERT": "cascadebert",
    "teacher, long training": "teacher-long",
}
_OTHERS = ("#882255", "#999933", "#0B4F3C", "#3C3C8C", "#B2182B", "#35978F", "#8C6BB1", "#4D4D4D")
_MARKERS = ("o", "D", "^", "v", "P", "X", "<", ">", "p", "d")
_LINES: tuple[Any, ...] = ("-", *dict.fromkeys(line for _, _, line in list(_KNOWN.values())[1:]))


class Absent(Exception):
    """Raised where a figure has no data; the message is the reason."""


class Mark(NamedTuple):
    """A method's name and appearance, the same in every figure."""

    name: str
    colour: str
    marker: str
    line: Any

    @property
    def dots(self) -> dict[str, Any]:
        """Return matplotlib's keywords of a marker without a line."""
        return {"color": self.colour, "marker": self.marker, "linestyle": "none"}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a drawing function: use the project's style and fix the layout of its figure."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            settle(figure)
            return figure

    return inner


def marks(points: pd.DataFrame, roles: Roles) -> dict[str, Mark]:
    """Return a mark for each method in `points`, in the order of the legends: references, methods, ablations.

    Known methods have the same mark in every profile. Any other has one that depends on its name, unless a method
    before it in the alphabet has that already. An ablation has the colour of the method that it is taken from.
    """
    names = table.display_names(points)
    result = {}
    fixed = {roles.reference: (INK, "*", "-"), roles.depth_reference: (GREY, "s", (0, (1, 1.2)))}
    for method, look in fixed.items():
        if method is not None and method in names:
            result[method] = Mark(names.pop(method), *look)
    methods = {method: name for method, name in sorted(names.items()) if method not in roles.ablations}
    looks = appearances(methods)
    result |= {method: Mark(name, *looks[method]) for method, name in methods.items()}
    for method in sorted(names.keys() - methods.keys()):
        full = roles.ablations[method]
        result[method] = Mark(names[method], result[full].colour if full in result else GREY, "x", (0, (2, 1)))
    return result


def appearances(names: Mapping[str, str]) -> dict[str, tuple[str, str, Any]]:
    """Return colour, marker and line style of each method.

    Args:
        names: contestant -> its label, from which the method of a contestant with a name of its own is known.

    Returns:
        Of up to 40 methods no two share both colour and marker, or both marker and line.
    """
    known = {
        method: method
        if method in _KNOWN
        else next((key for start, key in _LABELS.items() if name.startswith(start)), "")
        for method, name in names.items()
    }
    result: dict[str, tuple[str, str, Any]] = {}
    order = sorted(names, key=lambda each: (not known[each], known[each] != each, each))
    usual = {known[method]: method for method in reversed(order)}
    for method in sorted(order, key=lambda each: usual[known[each]] != each or not known[each]):
        options = [(colour, marker, line) for line, colour, marker in itertools.product(_LINES, _OTHERS, _MARKERS)]
        start = crc32(method.encode()) % len(options)
        options = [*options[start:], *options[:start]]
        if usual[known[method]] == method and known[method]:
            options = [_KNOWN[known[method]], *options]
        used = list(result.values())
        free = [
            option for option in options if not any(option[:2] == each[:2] or option[1:] == each[1:] for each in used)
        ]
        # Methods are easiest to distinguish by colour.
        fresh = [option for option in free if option[0] not in {colour for colour, *_ in used}]
        own = [option for option in fresh if option[1] not in {marker for _, marker, _ in used}]
        result[method] = next(iter([*own, *fresh, *free, *options]))
    return result


def task_order(points: pd.DataFrame, rows: pd.DataFrame | None = None) -> list[str]:
    """Return the tasks in `points` (only those of `rows`, if given): the catalogue's order, then own tasks."""
    there = set((points if rows is None else rows)["task"])
    return [task for task in in_order(points["task"]) if task in there]


def score_title(metric: str) -> str:
    """Return the axis title of a metric's scores, which figures show times 100."""
    return f"{TITLES.get(metric, metric)} × 100"


def panels(count: int, *, columns: int = 3, height: float = 1.75) -> tuple[Figure, list[Axes]]:
    """Return a page-wide figure with `count` panels of `height` inches each, and the panels."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(PAGE if columns > 1 else COLUMN * 1.25, rows * height + 0.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches (a legend below adds to it); it needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label_outer(grid: Sequence[Axes], x: str, y: str = "", *, columns: int = 3) -> None:
    """Label the axes of `panels`: y at the left edge, x below the last panel of each column."""
    for i, axes in enumerate(grid):
        if y and i % columns == 0:
            axes.set_ylabel(y)
        if i + columns >= len(grid):
            axes.set_xlabel(x)


def legend_below(figure: Figure, handles: Sequence[Any], *, columns: int = 4, note: str = "") -> None:
    """Add a legend below the figure, which grows by the legend's height, and to its width where that is larger.

    Args:
        figure: the figure.
        handles: the entries.
        columns: the largest number of columns; fewer are used where they do not fit.
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
    figure.set_figwidth(max(figure.get_figwidth(), extent.width / figure.dpi + 0.05))  # a long name needs the room
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def settle(figure: Figure) -> None:
    """Run the layout engine once and switch it off."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def method_handles(rows: pd.DataFrame, looks: Mapping[str, Mark]) -> list[Line2D]:
    """Return legend entries (markers) of the methods in `rows`, in the order of the legends."""
    present = set(rows["method"])
    return [Line2D([], [], **mark.dots, label=mark.name) for method, mark in looks.items() if method in present]


def halo() -> list[withStroke]:
    """Return a white outline, which keeps text legible over lines."""
    return [withStroke(linewidth=1.8, foreground="white")]


def ratio_axis(axis: Axis, low: float, high: float) -> None:
    """Set the ticks of a log axis of speed-ups: 1x, 2x, 4x, ...; finer steps where the range is below 5."""
    steps = [2.0**k for k in range(-6, 13)]
    if high / low < 5:
        steps = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0]
    shown = [step for step in steps if low * 0.97 <= step <= high * 1.03]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.set_minor_locator(NullLocator())


class _Counts(Locator):
    """Ticks at 1, 2 and 5 of every decade of a log axis; finer steps where that gives less than three ticks."""

    def __call__(self) -> Any:
        assert self.axis is not None
        return self.tick_values(*sorted(self.axis.get_view_interval()))

    def tick_values(self, vmin: float, vmax: float) -> Any:
        decades = 10.0 ** np.arange(math.floor(math.log10(vmin)), math.ceil(math.log10(vmax)) + 1)
        for steps in ((1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 5.0, 7.0)):
            ticks = np.outer(decades, steps).ravel()
            ticks = ticks[(vmin <= ticks) & (ticks <= vmax)]
            if len(ticks) > 2:
                return ticks
        return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3).tick_values(vmin, vmax)


def count_axis(axis: Axis) -> None:
    """Set the ticks of a log axis of large numbers: 200 M, 1 G."""
    axis.set_major_locator(_Counts())
    axis.set_major_formatter(FuncFormatter(lambda value, _: big(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def big(value: float) -> str:
    """Return a number as three digits and a prefix: 1.5 G for 1.5e9."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g}"


def padded(values: Iterable[float], share: float = 0.07) -> tuple[float, float]:
    """Return limits of an axis a little beyond the finite `values`."""
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return 0.0, 1.0
    room = max((finite.max() - finite.min()) * share, 0.5)
    return float(finite.min() - room), float(finite.max() + room)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write <folder>/<name>.png and .pdf, without dates or versions, so that equal figures give equal files.

    The PNG has a palette of 256 colours, which takes 40 % of the bytes; no channel differs by more than 20 of 255
    levels. `Figure.savefig` is avoided because it draws a second time to find the layout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    with matplotlib.rc_context(STYLE):
        settle(figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # The colours are refined by k-means, which keeps the hue of large pale areas such as bands.
        few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        few.save(png, optimize=True)
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return [png, pdf]
