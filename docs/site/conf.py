"""Settings of the site. Run it by `python tools/build_site.py`, which lays out the pages."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docutils import nodes  # noqa: E402
from docutils.utils.math import MathError  # noqa: E402
from docutils.utils.math.latex2mathml import tex2mathml  # noqa: E402
from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.util import logging  # noqa: E402

import minigpt  # noqa: E402

project, author = "minigpt", "The minigpt authors"
version = release = minigpt.__version__
language, html_title, html_short_title = "en", "minigpt", "minigpt"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["**.ipynb_checkpoints"]

nb_execution_mode = "off"  # the stored outputs are the page
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_labels = False
myst_heading_anchors = 5

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = r">>> |\.\.\. |\$ |> "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_math_renderer = "mathml"  # the browser sets formulas itself: no script, no fonts to load
html_static_path = [str(Path(__file__).with_name("static"))]
html_css_files = ["site.css"]
html_extra_path = [os.environ["SITE_EXTRA"]] if os.environ.get("SITE_EXTRA") else []
html_show_sphinx = html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}


# --- formulas ---


def plain_tex(tex: str) -> str:
    r"""Return TeX in the words that docutils reads: \frac12 becomes \frac{1}{2}."""
    tex = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", tex)
    tex = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", tex)
    return tex.replace(r"\dots", r"\ldots")


def formula(self, node: nodes.Node, as_block: bool) -> None:
    try:
        made = tex2mathml(plain_tex(node.astext()), as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning(f"{error}: {node.astext()}", location=node)
        made = node.astext()
    self.body.append(f'<div class="formula">{made}</div>' if as_block else made)
    raise nodes.SkipNode


def inline_formula(self, node: nodes.Node) -> None:
    formula(self, node, as_block=False)


def block_formula(self, node: nodes.Node) -> None:
    formula(self, node, as_block=True)


# --- docstrings: plain text with `names`, indented tables and lists, made safe for Sphinx ---


def safe(text: str) -> str:
    """Return plain text with `code` as a literal and every other mark escaped."""
    parts = re.split(r"(``[^`]+``|`[^`\n]+`)", text)
    for number, part in enumerate(parts):
        code = number % 2
        parts[number] = f"``{part.strip('`')}``" if code else re.sub(r"([\\*|_`])", r"\\\1", part)
    joined = "".join(parts)
    return re.sub(r"(``[^`]+``)(?=\w)", r"\1\\ ", re.sub(r"(?<=\w)(``[^`]+``)", r"\\ \1", joined))


def as_rst(lines: list[str]) -> list[str]:
    """Return a docstring as reStructuredText, block by block."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        rows = block.split("\n")
        if all(row.startswith("    ") for row in rows) or rows[0].lstrip().startswith(">>>"):
            made += ["::", "", *("    " + row for row in rows), ""]
        elif rows[0].startswith("- "):
            made += [
                *(("- " + safe(row[2:])) if row[:2] == "- " else safe(row) for row in rows),
                "",
            ]
        elif any(row.startswith(" ") or "   " in row for row in rows[1:]):
            made += [safe(rows[0]), "", "::", "", *("    " + row for row in rows[1:]), ""]
        else:
            made += [*map(safe, rows), ""]
    return made


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def setup(app) -> None:
    app.add_lexer("csv", TextLexer)
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline_formula, None), block_renderers=(block_formula, None)
    )
    app.connect("autodoc-process-docstring", plain_docstring)
