"""The site: every page is built without a warning, and every link in it leads somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="the site is tested with mkdocs: pip install -e '.[site]'")
pytest.importorskip("mkdocstrings", reason="the site is tested with mkdocstrings: pip install -e '.[site]'")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


class Links(HTMLParser):
    """The addresses that a page links to or loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_of_the_repository_is_in_it(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= pages
    assert {"index.html", "contributing.html", "changelog.html", "configuration.html"} <= pages


def test_the_api_has_every_name_that_its_page_asks_for(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("bench.method.Method", "bench.trace.Trace", "bench.analysis.comparing.verdicts.compare"):
        assert f'id="{name}"' in text, name


def test_no_link_is_dead(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue  # elsewhere; the page of errors has addresses from the root
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.exists():
                dead.append(f"{path.name}: {link}")
            elif parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].anchors:
                dead.append(f"{path.name}: {link} (no such anchor)")
    assert dead == [] and len(pages) > 10


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "fonts.googleapis.com" not in text and '<script src="http' not in text, path.name
