"""Tables in LaTeX that fit the page, whatever their length and width.

The files need the packages booktabs, longtable, array and pdflscape, and pages at least as wide as those of the article
class. Long tables break over pages. The font is the largest that fits the width: normal, small, scriptsize or tiny,
first on an upright page, then in landscape. Wider tables are continued in a second table with the same first columns.
Long texts are wrapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import pandas as pd

# Usable widths in points, upright and landscape. The article class at 10 pt has lines of 345 and columns of 550.
_UPRIGHT, _TURNED = 340.0, 540.0
# Font size, mean width of a character (bold digits in Computer Modern), space between two columns; widths in points.
_SIZES = (("normalsize", 5.6, 12.0), ("small", 5.1, 8.0), ("scriptsize", 4.2, 6.0), ("tiny", 3.55, 4.0))
# Texts longer than this are wrapped, to lines of at least this many characters.
_WRAPPED = 24
_TRANSLATED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "<": r"$<$",
        ">": r"$>$",
        "≥": r"$\geq$",
    }
)


def escape(text: str) -> str:
    """Return a text with LaTeX's special characters escaped, without characters that pdfLaTeX's fonts lack."""
    written = text.translate(_TRANSLATED)
    return "".join(letter for letter in written if ord(letter) < 0x250)


def document(
    name: str, caption: str, cells: pd.DataFrame, bold: pd.DataFrame, texts: Sequence[str], notes: Sequence[str]
) -> str:
    """Return the table as LaTeX.

    Text columns before the first numeric column are repeated where the table is continued.

    Args:
        name: Name of the table, for its label.
        caption: The caption.
        cells: Cells as text.
        bold: Mask of the cells to print in bold.
        texts: Names of the columns that are text.
        notes: Notes below the table.
    """
    heads = list(takewhile(lambda column: column in texts, cells))
    columns = [_Column(str(column), [*cells[column]], column in texts) for column in cells]
    parts, look = _laid_out(columns, len(heads))
    written = [
        _part(
            part, look, caption if at == 0 else f"{caption} (continued)", name if at == 0 else f"{name}-{at + 1}", bold
        )
        for at, part in enumerate(parts)
        if len(cells)
    ]
    size = look.size if written else "footnotesize"
    note = [rf"\noindent\footnotesize {escape(' '.join(notes))}\par"] if notes else []
    empty = [] if written else [rf"\noindent {escape(caption)}: no rows.\par"]
    lines = [
        r"\begingroup",
        rf"\{size}\setlength{{\tabcolsep}}{{{look.gap / 2:g}pt}}",
        r"\setlength{\LTcapwidth}{\linewidth}",
    ]
    lines += [*empty, *written, *note, r"\endgroup"]
    return "\n".join([r"\begin{landscape}", *lines, r"\end{landscape}"] if look.turned else lines) + "\n"


@dataclass(frozen=True)
class _Column:
    name: str
    cells: Sequence[str]
    text: bool

    @property
    def longest(self) -> int:
        return max(map(len, self.cells), default=0)

    @property
    def least(self) -> int:
        """Return the smallest width in characters: titles break between words, long texts are wrapped."""
        title = max(map(len, self.name.split()), default=0)
        return max(title, min(self.longest, _WRAPPED) if self.text else self.longest)

    @property
    def wrapped(self) -> bool:
        return self.text and self.longest > _WRAPPED


@dataclass(frozen=True)
class _Look:
    size: str
    letter: float
    gap: float
    turned: bool

    @property
    def line(self) -> float:
        return _TURNED if self.turned else _UPRIGHT

    def width(self, columns: Sequence[_Column]) -> float:
        return sum(column.least * self.letter + self.gap for column in columns)


def _laid_out(columns: Sequence[_Column], heads: int) -> tuple[list[list[_Column]], _Look]:
    """Return the columns of each part of the table, and the largest layout in which they fit."""
    looks = [_Look(*size, turned) for turned in (False, True) for size in _SIZES]
    for look in looks:
        if look.width(columns) <= look.line:
            return [list(columns)], look
    first, parts = list(columns[:heads]), [list(columns[:heads])]
    for column in columns[heads:]:
        if len(parts[-1]) > heads and look.width([*parts[-1], column]) > look.line:
            parts.append(list(first))
        parts[-1].append(column)
    return parts, look


def _part(columns: Sequence[_Column], look: _Look, caption: str, label: str, bold: pd.DataFrame) -> str:
    """Return one longtable."""
    wrapped = sum(column.wrapped for column in columns)
    extra = max(look.line - look.width(columns), 0.0) / wrapped if wrapped else 0.0
    align = "".join(_alignment(column, look, extra) for column in columns)
    head = " & ".join(_title(column) for column in columns) + r" \\"
    rows = []
    for at, row in zip(bold.index, zip(*(column.cells for column in columns), strict=True), strict=True):
        texts = [_broken(cell) if column.wrapped else escape(cell) for cell, column in zip(row, columns, strict=True)]
        strong = [bool(bold.at[at, column.name]) for column in columns]
        written = [rf"\textbf{{{text}}}" if b else text for text, b in zip(texts, strong, strict=True)]
        rows.append(" & ".join(written) + r" \\")
    return "\n".join(
        [
            rf"\begin{{longtable}}{{{align}}}",
            rf"\caption{{{escape(caption)}}}\label{{tab:{label}}}\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endfirsthead",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *rows,
            r"\end{longtable}",
        ]
    )


def _broken(text: str) -> str:
    """Return an escaped text in which paths can be broken."""
    return escape(text).replace("/", r"/\allowbreak{}")


def _alignment(column: _Column, look: _Look, extra: float) -> str:
    if not column.wrapped:
        return "l" if column.text else "r"
    width = min(column.least * look.letter + extra, column.longest * look.letter)
    return rf">{{\raggedright\arraybackslash}}p{{{width:.0f}pt}}"


def _title(column: _Column) -> str:
    """Return the title of a column, on several lines if it is wider than the cells."""
    words = [escape(word) for word in column.name.split()]
    if len(column.name) <= max(column.least, 1) or column.wrapped:
        return " ".join(words)
    return rf"\shortstack[{'l' if column.text else 'r'}]{{" + r"\\".join(words) + "}"
