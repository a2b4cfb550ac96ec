"""Build the site: chapters, exercises, solutions, pages and the API, from the stored notebooks.

    pip install -r requirements-docs.txt
    python tools/build_site.py                       # build/site/html/index.html

Nothing is executed and nothing is loaded from elsewhere. The pages are laid out as the repository
is, so a link between two files is a link between two pages; `.py` files lead to the API. A warning
of Sphinx, a dead link and a remote asset are errors.
"""

import argparse
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from course import MODULES, ROOT, notebooks
from hosted import colab, hosted_copy, place, repository
from messages import page as all_messages
from site_links import faults

SETTINGS = ROOT / "docs" / "site"  # conf.py and the style sheet
TEXTS = ("*.md", "docs/*.md", "datasets/**/*.md", "chapters/**/*.md", "minigpt/**/*.md")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
IGNORE_ALL = "   :ignore-module-all:"  # what a package hands on is shown where it is defined
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
# Pages of modules stand in no menu: a menu of 300 entries on each page would take minutes to make.
ORPHAN = ("---", "orphan: true", "---", "")
SHELF = {  # pages beside the course, in the order of the menu
    "Use it": (
        "guide",
        "troubleshooting",
        "messages",
        "data_formats",
        "serving",
        "clusters",
        "hosted",
    ),
    "Look it up": ("glossary", "benchmarks", "real_text", "reliability", "experiments"),
}
PROJECT = ("CONTRIBUTING", "CODE_OF_CONDUCT", "SECURITY", "CHANGELOG")
PROJECT += ("datasets/README", "minigpt/models/little/README")


class Pages:
    """What the site holds: from a path in the repository to the page that shows it."""

    def __init__(self, root: Path, address: str | None):
        self.root, self.address = root, address
        texts = sorted({path for form in TEXTS for path in root.glob(form)})
        self.texts = [path.relative_to(root) for path in texts if "build" not in path.parts]
        self.notebooks = [path.relative_to(root) for path in notebooks(root)]
        self.of = {path.as_posix(): path.as_posix() for path in (*self.texts, *self.notebooks)}
        self.of["README.md"] = self.of["."] = "index.md"
        self.of["chapters/solutions"] = "chapters/solutions/index.md"
        self.modules = {name: source_of(root, name) for name in MODULES if name != "__main__"}
        self.modules = {name: path for name, path in self.modules.items() if path}
        for name, path in self.modules.items():
            self.of[path] = f"minigpt/{name.replace('.', '/')}.md"
            if path.endswith("__init__.py"):
                self.of[posixpath.dirname(path)] = self.of[path]
        for room in sorted({name.split(".")[0] for name in self.modules if "." in name}):
            if room not in self.modules:
                self.of[f"minigpt/{room}"] = f"minigpt/{room}/index.md"
        self.files: set[str] = set()  # files that are not pages, but linked or shown

    def target(self, link: str, here: str) -> str | None:
        """Return a link of the page `here` as the site needs it; None where nothing can be shown.

        here: the place of the page's source in the repository, with forward slashes.
        """
        path, mark, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            return link
        if not path:
            return mark + (slug(anchor) if here.endswith(".ipynb") else anchor)
        page = PurePosixPath(self.of.get(here, here)).parent.as_posix()
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        found = self.of.get(wanted) or self.of.get(posixpath.join(wanted, "README.md"))
        if found is None and (self.root / wanted).is_file():
            self.files.add(wanted)
            found = wanted
        if found is None and (self.root / wanted).exists():
            return f"{self.address}/tree/main/{wanted}" if self.address else None
        if wanted.endswith(".ipynb"):
            anchor = slug(anchor)
        return posixpath.relpath(found or wanted, page) + mark + anchor

    def rewrite(self, text: str, here: str) -> str:
        """Return a page's Markdown with its links led to pages; code stays as it is."""

        def lead(match: re.Match[str]) -> str:
            new = self.target(match[1], here)
            return f"]({new})" if new else "]"

        parts = CODE.split(text)
        parts[::2] = [LINK.sub(lead, part) for part in parts[::2]]
        return "".join(parts)


def slug(anchor: str) -> str:
    """Return the anchor of a heading as pages have it, from the one that Jupyter gives it.

    >>> slug("9-·-How-sure-is-a-score%3F")
    '9--how-sure-is-a-score'
    """
    return re.sub(r"[^\w-]", "", unquote(anchor).lower())


def source_of(root: Path, module: str) -> str | None:
    """Return the file of an entry of MODULES, relative to the root; None where it is planned."""
    stem = f"minigpt/{module.replace('.', '/')}"
    return next((p for p in (f"{stem}.py", f"{stem}/__init__.py") if (root / p).is_file()), None)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def toctree(entries: list[str], caption: str = "") -> str:
    """Return a hidden table of contents: it makes the menu, the page's text stays as it is."""
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["", "```{toctree}", *options, "", *entries, "```", ""])


# --- pages ---


def parts_of_the_course(readme: str) -> dict[str, list[str]]:
    """Return the ready chapters by part, as README's table has them."""
    parts: dict[str, list[str]] = {}
    for line in readme.splitlines():
        if part := re.match(r"\| \| \*\*(.+?)\*\* \|", line):
            parts[part[1]] = []
        elif chapter := re.match(r"\| \d\d \| \[\w+\]\(chapters/(\w+)\.ipynb\)", line):
            list(parts.values())[-1].append(f"chapters/{chapter[1]}")
    return {part: chapters for part, chapters in parts.items() if chapters}


def front_page(pages: Pages) -> str:
    """Return the README as the first page, with the menu of the whole site."""
    readme = (pages.root / "README.md").read_text(encoding="utf-8")
    have = {path.with_suffix("").as_posix() for path in pages.texts} | {"docs/messages"}
    shelf = {name: [f"docs/{page}" for page in names] for name, names in SHELF.items()}
    listed = {page for names in shelf.values() for page in names}
    shelf["Look it up"] += sorted(p for p in have if p.startswith("docs/") and p not in listed)
    shelf["Use it"].append("chapters/exercises/README")
    shelf["Look it up"].insert(0, "minigpt/README")
    shelf["The project"] = [*PROJECT]
    menu = [toctree(names, part) for part, names in parts_of_the_course(readme).items()]
    for caption, names in shelf.items():
        menu.append(toctree([name for name in names if name in have], caption))
    return pages.rewrite(readme, "README.md") + "".join(menu)


def chapter_line(pages: Pages, path: Path) -> str:
    """Return the line below a notebook's title: run it elsewhere, take it along, answer it."""
    up = "../" * (len(path.parts) - 1)
    hosted = colab(pages.address, path) or f"{up}docs/hosted.html"
    links = {"Open as a hosted notebook": hosted, "Download": f"{up}{place(path)}"}
    for name in ("exercises", "solutions"):
        if path.parent.name == "chapters" and (path.parent / name / path.name) in pages.notebooks:
            links[name.capitalize()] = f"{name}/{path.stem}.html"
    shown = " · ".join(f'<a href="{link}">{words}</a>' for words, link in links.items())
    return f'<div class="chapter-line">{shown}</div>'


def chapter_page(pages: Pages, path: Path) -> str:
    """Return a notebook as a page: links led to pages, its own line below the title."""
    notebook = json.loads((pages.root / path).read_text(encoding="utf-8"))
    texts = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for cell in texts:
        cell["source"] = pages.rewrite("".join(cell["source"]), path.as_posix())
    title, _, rest = texts[0]["source"].partition("\n")
    texts[0]["source"] = f"{title}\n\n{chapter_line(pages, path)}\n{rest}"
    if path.parent.name == "chapters":
        below = [f"{name}/{path.stem}" for name in ("exercises", "solutions")]
        have = {page.with_suffix("").as_posix() for page in pages.notebooks}
        texts[-1]["source"] += "\n" + toctree([b for b in below if f"chapters/{b}" in have])
    return json.dumps(notebook, ensure_ascii=False)


def solutions_page(pages: Pages) -> str:
    """Return the page that links to the folder of solutions lead to."""
    rows = [*ORPHAN, "# Solutions", ""]
    for path in pages.notebooks:
        if path.parent.name == "solutions":
            name = path.stem[3:].replace("_", " ")
            rows.append(f"- [{path.stem[:2]} · {name}]({path.name})")
    return "\n".join([*rows, ""])


def module_page(root: Path, name: str, path: str) -> str:
    """Return the API page of a module, or of a package with the modules that only it holds."""
    modules = [f"minigpt.{name}"]
    if path.endswith("__init__.py"):
        files = sorted((root / path).parent.glob("*.py"))
        inner = (file.stem for file in files if not file.stem.startswith("__"))
        modules += [f"minigpt.{name}.{stem}" for stem in inner if f"{name}.{stem}" not in MODULES]
    rows = [*ORPHAN, f"# {name}", ""]
    for number, module in enumerate(modules):
        if number:
            rows += [f"## {module.removeprefix('minigpt.')}", ""]
        rows += [
            "```{eval-rst}",
            f".. automodule:: {module}",
            "   :members:",
            IGNORE_ALL,
            "```",
            "",
        ]
    return "\n".join(rows)


def api_pages(pages: Pages) -> dict[str, str]:
    """Return the pages of the API: the list in reading order, rooms, modules."""
    made, rooms = {}, {}
    for name, path in pages.modules.items():
        room, _, file = name.partition(".")
        made[f"minigpt/{name.replace('.', '/')}.md"] = module_page(pages.root, name, path)
        if file and room not in pages.modules:
            rooms.setdefault(room, []).append(file)
    for room, files in rooms.items():
        head = (
            "\n".join([*ORPHAN, ""])
            + f"# {room}/\n\n```{{eval-rst}}\n.. automodule:: minigpt.{room}\n```\n"
        )
        rows = "".join(f"- [{room}.{file}]({file}.md)\n" for file in files)
        made[f"minigpt/{room}/index.md"] = f"{head}\n{rows}"
    text = (pages.root / "minigpt" / "README.md").read_text(encoding="utf-8")
    made["minigpt/README.md"] = pages.rewrite(text, "minigpt/README.md")
    return made


def lay_out(pages: Pages, folder: Path) -> None:
    """Write the sources of the site, and the hosted copies of its notebooks, to a folder."""
    for path in pages.texts:
        text = (pages.root / path).read_text(encoding="utf-8")
        write(folder / "source" / path, pages.rewrite(text, path.as_posix()))
    (folder / "source" / "README.md").unlink()
    write(folder / "source" / "index.md", front_page(pages))
    write(folder / "source" / "docs/messages.md", all_messages(pages.root))
    write(folder / "source" / "chapters/solutions/index.md", solutions_page(pages))
    for name, text in api_pages(pages).items():
        write(folder / "source" / name, text)
    for path in pages.notebooks:
        write(folder / "source" / path, chapter_page(pages, path))
        text = (pages.root / path).read_text(encoding="utf-8")
        write(folder / "extra" / place(path), hosted_copy(text, path, pages.address))
    write(folder / "extra" / ".nojekyll", "")  # GitHub would leave out folders such as _static
    for file in sorted(pages.files):
        (folder / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pages.root / file, folder / "source" / file)


# --- build and check ---


def sphinx(folder: Path, jobs: int) -> int:
    """Run Sphinx in a process of its own; return its exit code. Every warning is an error."""
    words = ["-b", "html", "-q", "-E", "-W", "--keep-going", "-j", str(jobs)]
    paths = [folder / "source", folder / "html"]
    words += ["-c", str(SETTINGS), "-d", str(folder / "trees"), *map(str, paths)]
    here = os.environ | {"PYTHONPATH": str(ROOT), "SITE_EXTRA": str(folder / "extra")}
    return subprocess.run([sys.executable, "-m", "sphinx", *words], env=here).returncode


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the site, without a network.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--repository", default=repository(), help="address of the public copy")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of Sphinx")
    options = parser.parse_args(arguments)
    start, folder = time.perf_counter(), options.out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    lay_out(Pages(ROOT, options.repository), folder)
    if code := sphinx(folder, options.jobs):
        return code
    html = folder / "html"
    found = faults(html)
    print("\n".join(found), file=sys.stderr)
    files = [path for path in html.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    count = sum(path.suffix == ".html" for path in files)
    print(f"{count} pages, {size:.0f} MB, {time.perf_counter() - start:.0f} s: {html}/index.html")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
