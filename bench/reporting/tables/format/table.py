"""Tables that can be written as CSV, Markdown and LaTeX."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from bench.reporting.tables.format import latex

NONE = "–"
_CSV = "%.6g"
Format = Callable[[float], str]


def score(value: float) -> str:
    """Format a score on the 0 to 100 scale."""
    return f"{value:.1f}"


def difference(value: float) -> str:
    """Format a difference of scores, in points."""
    return f"{value:+.1f}"


def percent(value: float) -> str:
    """Format a percentage."""
    return f"{value:.0f} %"


def speedup(value: float) -> str:
    """Format a speed-up."""
    return f"{value:.1f}x"


def whole(value: float) -> str:
    """Format a number without decimals."""
    return f"{value:.0f}"


def plain(value: float) -> str:
    """Format a number with four significant digits."""
    return f"{value:.4g}"


def fraction(value: float) -> str:
    """Format a number with three decimals."""
    return f"{value:.3f}"


def amount(value: float) -> str:
    """Format parameters or FLOPs with about three significant digits and G, M or k."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.{max(0, 3 - len(str(int(value / size))))}f}{unit}"
    return f"{value:.0f}"


@dataclass(frozen=True)
class Table:
    """Values with a format for each numeric column.

    A numeric column "X" may be accompanied by "X std", printed after a ±, and "X mark", printed after the value. In the
    CSV they are separate columns.

    Attributes:
        name: File name without suffix.
        caption: The caption.
        values: The values.
        formats: Formats of the numeric columns; the others are text.
        notes: Notes below the table.
        bold: Mask of bold cells, with the index of `values` and some of its columns.
    """

    name: str
    caption: str
    values: pd.DataFrame
    formats: dict[str, Format]
    notes: Sequence[str] = ()
    bold: pd.DataFrame | None = None

    @property
    def columns(self) -> list[str]:
        """Return the columns to print."""
        return [str(name) for name in self.values if not str(name).endswith((" std", " mark"))]

    def printed(self) -> pd.DataFrame:
        """Return the cells as text."""
        cells = {}
        for name in self.columns:
            form = self.formats.get(name)
            column = self.values[name]
            if form is None:
                cells[name] = [NONE if pd.isna(v) or v == "" else str(v) for v in column]
                continue
            blank = [None] * len(column)
            deviations = self.values.get(f"{name} std", blank)
            marks = self.values.get(f"{name} mark", blank)
            cells[name] = [_cell(form, *each) for each in zip(column, deviations, marks, strict=True)]
        return pd.DataFrame(cells, index=self.values.index, columns=self.columns, dtype=object)

    def is_bold(self) -> pd.DataFrame:
        """Return the mask of bold cells, with all columns to print."""
        result = pd.DataFrame(False, index=self.values.index, columns=self.columns)
        if self.bold is not None:
            result[list(self.bold)] = self.bold
        return result

    def csv(self) -> str:
        """Return the values as CSV, without caption and notes (see `caption_and_notes`)."""
        return self.values.to_csv(index=False, float_format=_CSV)

    def caption_and_notes(self) -> str:
        """Return the caption and the notes, one per line."""
        return "".join(f"{line}\n" for line in (self.caption, *self.notes))

    def markdown(self) -> str:
        """Return the table as Markdown, with caption and notes."""
        cells = self.printed().map(_cell_text)
        cells = cells.where(~self.is_bold(), "**" + cells + "**")
        align = ["left" if self._is_text(name) else "right" for name in self.columns]
        # Keep tabulate from parsing and reformatting numbers.
        body = tabulate(cells.values.tolist(), self.columns, "pipe", colalign=align, disable_numparse=True)
        notes = "\n".join(f"- {_plain(note)}" for note in self.notes)
        parts = (f"**{_plain(self.caption)}**", body if len(cells) else "", notes)
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """Return the table as LaTeX; see `bench.reporting.tables.format.latex`."""
        texts = [name for name in self.columns if name not in self.formats]
        return latex.document(self.name, self.caption, self.printed(), self.is_bold(), texts, self.notes)

    def write(self, folder: Path) -> list[Path]:
        """Write <name>.csv, <name>.notes.txt, <name>.md and <name>.tex to a folder; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        texts = {
            ".csv": self.csv(),
            ".notes.txt": self.caption_and_notes(),
            ".md": self.markdown(),
            ".tex": self.latex(),
        }
        for ending, text in texts.items():
            path = folder / f"{self.name}{ending}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
        return written

    def _is_text(self, name: str) -> bool:
        return name not in self.formats


def shown(form: Format, value: float) -> str:
    """Format a number after rounding it as in the CSV, so that both are rounded the same way."""
    return form(float(_CSV % value))


def _cell(form: Format, value: float, deviation: float | None, mark: str | None) -> str:
    if pd.isna(value):
        return NONE
    spread = f" ±{shown(form, deviation).lstrip('+')}" if deviation is not None and not pd.isna(deviation) else ""
    return shown(form, value) + spread + (mark if isinstance(mark, str) else "")


def _plain(text: str) -> str:
    """Return a text as one line of Markdown in which HTML tags have no meaning."""
    return " ".join(text.splitlines()).replace("<", "&lt;")


def _cell_text(text: str) -> str:
    """Return a text for a cell of Markdown, in which characters of tables, emphasis and code have no meaning either."""
    return re.sub(r"([|*`\\])", r"\\\1", _plain(text))


def display_names(points: pd.DataFrame) -> dict[str, str]:
    """Map each method to its display name: the common start of its variants' labels, and their common ending.

    Names of several methods that would be equal are followed by the names of the contestants in brackets.
    """
    names = {method: name + note for method, (name, note) in _shared(points).items()}
    count = Counter(names.values())
    longer = {method: f"{name} ({method})" for method, name in names.items()}
    some = {method: name if count[name] == 1 else longer[method] for method, name in names.items()}
    return some if len(set(some.values())) == len(some) else longer


def variant_names(points: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Map (method, variant) to the part of its label after the method's name, such as "2x"; empty for one variant."""
    shared, labels = _shared(points), points.drop_duplicates(["method", "variant"])
    alone = set(labels["method"]) - set(labels.loc[labels["method"].duplicated(), "method"])
    names = {}
    for row in labels.itertuples():
        name, note = shared[row.method]
        own = str(row.label).removeprefix(name).removesuffix(note).strip(" ,:;-")
        names[row.method, row.variant] = "" if row.method in alone else own
    return names


def _shared(points: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Map each method to the common first words of its variants' labels, and their common ending.

    For example, "TinyBERT 3L-192 (w/o DA)" and "TinyBERT 3L-384 (w/o DA)" give "TinyBERT" and " (w/o DA)".
    """
    shared = {}
    for method, values in points.groupby("method")["label"]:
        labels = [str(label) for label in values.dropna().unique()]
        note = _common_ending(labels)
        common = []
        for column in zip(*(label.removesuffix(note).split() for label in labels), strict=False):
            if len(set(column)) > 1:
                break
            common.append(column[0])
        name = " ".join(common)
        if name.count("(") > name.count(")"):  # the labels differ within the bracket
            name = name[: name.rindex("(")].rstrip()
        shared[str(method)] = (name.rstrip(",:;(") or str(method), note)
    return shared


def _common_ending(labels: Sequence[str]) -> str:
    """Return the longest ending of all labels that starts at a comma or a bracket; "" for one label."""
    if len(labels) < 2:
        return ""
    endings = [labels[0][start.start() :] for start in re.finditer(r"(?=, | \()", labels[0])]
    balanced = [ending for ending in endings if ending.count("(") == ending.count(")")]
    return next((ending for ending in balanced if all(label.endswith(ending) for label in labels)), "")
