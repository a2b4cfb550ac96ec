"""Look through built pages for links that lead nowhere, and for assets loaded from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LOADED = {"src", "srcset", "data", "poster", "action"}
REMOTE = re.compile(r"^(https?:)?//")
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")


class Page(HTMLParser):
    """The names, links and loaded assets of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if not value:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.names.add(value)
            elif name == "href" and tag == "a":
                self.links.append(value)
            elif name in LOADED or (name == "href" and tag == "link"):
                self.loaded.append(value)
            elif name == "style":
                self.loaded += IN_STYLE.findall(value)


def faults(html: Path) -> list[str]:
    """Return a line for each dead link and each remote asset of a folder of built pages."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(html.rglob("*.html"))}
    pages = {path.resolve(): Page(text) for path, text in texts.items()}
    found = []
    for path, page in pages.items():
        place = path.relative_to(html.resolve()).as_posix()
        found += [f"{place}: remote asset {link}" for link in page.loaded if REMOTE.match(link)]
        local = [link for link in page.loaded if not REMOTE.match(link)]
        for link in dict.fromkeys(page.links + local):
            if is_dead(link, path, pages):
                found.append(f"{place}: dead link {link}")
    for style in sorted(html.rglob("*.css")):
        for link in IN_STYLE.findall(style.read_text(encoding="utf-8")):
            found.append(f"{style.name}: remote asset {link}")
    return found


def is_dead(link: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Tell whether a link within the site has no file, or names an anchor that its page lacks."""
    if re.match(r"[a-z][a-z+.-]*:|//", link):
        return False  # elsewhere, or data:
    file, _, anchor = link.partition("#")
    file = unquote(file.partition("?")[0])
    target = (path.parent / file).resolve() if file else path
    target = target / "index.html" if target.is_dir() else target
    if target in pages:
        return bool(anchor) and unquote(anchor) not in pages[target].names
    return not target.is_file()
