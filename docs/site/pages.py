"""Bring the pages that lie outside docs/ into the site, and point links at pages of the site.

MkDocs calls `on_files` and `on_page_markdown` while it builds (`hooks` in mkdocs.yml).
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "config/README.md": "configuration.md",
}
"""Files of the repository -> pages of the site."""
_LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_IMAGES = (".png", ".svg")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/ and the images that they show."""
    root = Path(config.docs_dir).parent
    for source, page in PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for link in _LINK.finditer(text):
            image = _inside(source, link["target"])
            if image.endswith(_IMAGES):
                files.append(File.generated(config, _image(image), abs_src_path=str(root / image)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point the links of a page at pages of the site; a link to another file of the repository becomes its name."""
    place = page.file.src_uri
    source = next((name for name, there in PAGES.items() if there == place), f"docs/{place}")
    root = Path(config.docs_dir).parent

    def moved(link: re.Match[str]) -> str:
        target = _inside(source, link["target"])
        if not (root / target).exists():
            return link[0]  # MkDocs reports it
        if target.endswith(_IMAGES):
            there = _image(target)
        elif target in PAGES or target.startswith("docs/"):
            there = PAGES.get(target, target.removeprefix("docs/"))
        else:
            return link["text"].removeprefix("[").removesuffix("]")
        return f"{link['text']}({posixpath.relpath(there, posixpath.dirname(place) or '.')}{link['anchor'] or ''})"

    return _LINK.sub(moved, markdown)


def _inside(source: str, target: str) -> str:
    """Return the path in the repository of a link in a file of it."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _image(path: str) -> str:
    return f"images/{posixpath.basename(path)}"
