"""The site: built, looked at by a browser that is narrow and wide, and searched."""

import contextlib
import http.server
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from tests.support.harness import need, need_modules, output
from tests.support.paths import ROOT

WIDTHS = (400, 1200)

SOUGHT = {"logrotate": "nbdfork-service.1.html", "SharedBuffer": "nbdfork.plugin-contract.html"}
"""Words, and a page that has them."""

LOOK = """
<!doctype html><title>look</title><pre id="found"></pre><iframe id="page"></iframe>
<script>
const frame = document.getElementById("page");
async function load(url, width) {
    frame.style.width = width + "px";
    frame.style.height = "800px";
    await new Promise((resolve) => { frame.onload = resolve; frame.src = url; });
}
async function until(condition) {
    for (let turns = 0; turns < 200 && !condition(); turns++)
        await new Promise((resolve) => setTimeout(resolve, 20));
}
async function look() {
    const wide = [], results = {};
    for (const width of WIDTHS)
        for (const page of PAGES) {
            await load(page, width);
            const root = frame.contentDocument.documentElement;
            if (root.scrollWidth > width) wide.push([page, width, root.scrollWidth]);
        }
    for (const [word, page] of Object.entries(SOUGHT)) {
        await load("search.html?q=" + word, 1200);
        const links = () => [...frame.contentDocument.querySelectorAll("#search-results li a")];
        await until(() => links().some((link) => link.pathname.endsWith(page)));
        results[word] = links().map((link) => link.pathname.split("/").pop());
    }
    document.getElementById("found").textContent = JSON.stringify({wide, results});
}
look();
</script>
"""
"""A page that shows each of the others in a frame, and writes down what it has found."""


class Page(HTMLParser):
    """What a page leads to, and what it can be reached by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.add(found.get("id", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" or "src" in found:
            self.loaded.append(found.get("src") or found.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("mandoc")
    need_modules("sphinx", "furo")
    target = tmp_path_factory.mktemp("site") / "html"
    output(sys.executable, ROOT / "doc" / "site" / "build.py", target)
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.name: Page(path) for path in sorted(site.glob("*.html"))}


def test_every_page_of_the_manual_is_there(pages: dict[str, Page]) -> None:
    assert {f"{path.name}.html" for path in (ROOT / "man").iterdir()} <= pages.keys()


def test_every_link_leads_somewhere(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for link in page.links:
            if link.startswith("https://"):
                continue
            target, anchor = urldefrag(urljoin(name, link))
            assert target in pages, f"{name}: {link}"
            assert not anchor or unquote(anchor) in pages[target].anchors, f"{name}: {link}"


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for link in page.loaded:
            path = urldefrag(link)[0].partition("?")[0]
            assert not path or (site / path).is_file(), f"{name}: {link}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import) *[\"']?(https?:)?//", sheet.read_text()), sheet


def test_every_page_fits_and_the_search_finds_them(site: Path, pages: dict[str, Page]) -> None:
    """In a browser, on a screen of 400 and of 1,200 pixels."""
    need("chromium")
    shown = [name for name in pages if name != "search.html"]
    settings = f"const WIDTHS = {list(WIDTHS)}, PAGES = {shown}, SOUGHT = {SOUGHT};"
    (site / "look.html").write_text(LOOK.replace("<script>", f"<script>{settings}", 1))
    with served(site) as address, profile(site) as words:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *words]
        command += ["--hide-scrollbars", "--virtual-time-budget=60000", "--dump-dom"]
        shown_text = output(*command, f"{address}/look.html")
    found = re.search(r'<pre id="found">(.+?)</pre>', shown_text)
    assert found is not None, shown_text[-2000:]
    seen = json.loads(found[1].replace("&amp;", "&").replace("&gt;", ">"))
    assert seen["wide"] == []
    for word, page in SOUGHT.items():
        assert page in seen["results"][word]


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve *directory* by HTTP on this machine, which frames need to look into each other."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(directory))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def profile(site: Path) -> Iterator[list[str]]:
    """Yield options by which a browser keeps what it writes to itself, and reaches only *site*."""
    directory = site.parent / "profile"
    yield [
        f"--user-data-dir={directory}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    shutil.rmtree(directory, ignore_errors=True)
