"""The figures' font, without the thousands of signs that no figure has.

matplotlib cuts the whole font anew for every PDF, which takes longer than to draw it; a small one is soon cut again.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from fontTools import subset
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager

FONT = "DejaVu Sans"
SIGNS = (
    *range(0x20, 0x7F),
    *range(0xA0, 0x180),  # Latin
    *range(0x2010, 0x2045),  # dashes, quotes, daggers
    *range(0x2190, 0x2194),  # arrows
    *(0x2212, 0x2248, 0x2260, 0x2264, 0x2265),  # signs of mathematics
)


@cache
def families() -> list[str]:
    """What `font.family` is to be: the small font, then the whole one for what else a name may hold."""
    folder = Path(tempfile.mkdtemp(prefix="costeff-fonts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = subset.Options(glyph_names=True, layout_features=["*"])
    options.drop_tables += ["FFTM"]  # when it was made
    small = f"{FONT} of figures"
    for weight in (400, 700):
        whole = findfont(FontProperties(family=FONT, weight=weight))
        file = folder / Path(whole).name
        with subset.load_font(whole, options) as font:
            cutter = subset.Subsetter(options)
            cutter.populate(unicodes=SIGNS)
            cutter.subset(font)
            font.save(file)
        fontManager.ttflist.append(FontEntry(str(file), name=small, style="normal", weight=weight, size="scalable"))
    return [small, FONT]
