"""The small font is the whole one: same picture, also of a name with signs that it lacks."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont

from bench.reporting.figures.fonts import FONT, SIGNS, families


def picture(text: str, weight: str, fonts: list[str]) -> np.ndarray:
    with matplotlib.rc_context({"font.family": fonts}):
        canvas = FigureCanvasAgg(Figure(figsize=(4, 1), dpi=180))
        canvas.figure.text(0.02, 0.4, text, weight=weight)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()


LETTERS = [chr(sign) for sign in SIGNS if chr(sign) != "$"] + list("αβΔЖ")


@hypothesis(max_examples=30, deadline=None)
@given(st.text(st.sampled_from(LETTERS), min_size=1, max_size=12))
def test_a_text_looks_as_in_the_whole_font(text: str) -> None:
    for weight in ("normal", "bold"):
        assert np.array_equal(picture(text, weight, families()), picture(text, weight, [FONT]))


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_it_is_small(weight: str) -> None:
    whole, small = (Path(findfont(FontProperties(family=name, weight=weight))) for name in (FONT, families()[0]))
    assert small != whole and small.stat().st_size < 0.15 * whole.stat().st_size
    assert set(SIGNS) & set(TTFont(whole).getBestCmap()) == set(TTFont(small).getBestCmap())
