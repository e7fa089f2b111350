"""What Sphinx is taught for this site: contents from docs/index.md, MathML, and docstrings of plain text."""

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

LOG = logging.getLogger(__name__)
INDEX, API = "docs/index", "docs/api"
MEMBERS = "   :members:\n   :show-inheritance:\n   :ignore-module-all:\n"  # a name stands where it is made
LINK = re.compile(r"^\* \[[^]]*\]\(([^)]+)\.(?:md|ipynb)\)", re.MULTILINE)
APPLIED, THIN_SPACE = "<mo>&ApplyFunction;</mo>", '<mspace width="0.17em"></mspace>'  # browsers leave none after log
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
CITATION = re.compile(r"\beqs?\. \d+\.\d+(?:(?:, | and |–)\d+\.\d+)*")
ARGUMENT = re.compile(r" {0,2}([^\W\dA-Z]\w*(?:, \w+)*): ")


def reference(app: Sphinx) -> None:
    """docs/api: a page per package, of its modules' docstrings."""
    folder = app.srcdir / API
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for package in sorted(path.parent for path in (app.srcdir / "gpvae_jax").rglob("__init__.py")):
        name = ".".join(package.relative_to(app.srcdir).parts)
        modules = [f"{name}.{path.stem}" for path in sorted(package.glob("*.py")) if not path.stem.startswith("__")]
        page = _heading(name, "=") + f".. automodule:: {name}\n\n"
        page += "".join(_heading(m, "-") + f".. automodule:: {m}\n{MEMBERS}\n" for m in modules)
        (folder / f"{name}.rst").write_text(page)


def _heading(name: str, line: str) -> str:
    return f"``{name}``\n{line * (len(name) + 4)}\n\n"


def contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """The sidebar: a section per heading of docs/index.md, an entry per link. Pages beside it need none."""
    if docname == app.config.root_doc:
        sections = re.split(r"^## ", (app.srcdir / f"{INDEX}.md").read_text(), flags=re.MULTILINE)[1:]
        entries = [(section.splitlines()[0], LINK.findall(section)) for section in sections]
        packages = sorted(f"api/{path.stem}" for path in (app.srcdir / API).glob("*.rst"))
        for caption, links in [*entries, ("Reference", packages)]:
            names = "\n".join(posixpath.normpath(f"docs/{link}") for link in links)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"
    elif docname == INDEX or docname.startswith("experiments/results/"):
        source[0] = "---\norphan: true\n---\n" + source[0]


def mathml(self: Any, node: nodes.Element) -> None:
    """TeX as MathML, by docutils' own converter; an equation's \\tag becomes its number and the anchor eq-NUMBER."""
    is_block = isinstance(node, nodes.math_block)
    tex = node.astext()
    found = TAG.search(tex)
    try:
        markup = tex2mathml(TAG.sub("", tex), as_block=is_block).replace(APPLIED, f"{APPLIED}{THIN_SPACE}")
    except MathError as error:
        LOG.warning("%s", error, location=node)
        raise nodes.SkipNode from error
    if found:
        anchor, number = f' id="eq-{found[1]}"', f'<a class="eqno" href="#eq-{found[1]}">({found[1]})</a>'
        markup = f'<div class="math"{anchor}>{markup}{number}</div>\n'
    self.body.append(markup)
    raise nodes.SkipNode


def plain_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: paragraphs, and a list where a line begins with an argument's name."""
    if lines and lines[0].startswith("Alias for field number"):  # a NamedTuple's, of which it says nothing
        lines[:] = []
    made: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip()):
        if paragraph.startswith("    "):
            made += ["::", "", *paragraph.splitlines(), ""]
            continue
        items: list[str] = []
        for line in paragraph.splitlines():
            if ARGUMENT.match(line) or not items:
                items.append(line)
            else:
                items[-1] += " " + line.strip()
        for item in items:
            argument = ARGUMENT.match(item)
            made += [f"* **{argument[1]}**: {_escaped(item[argument.end() :])}" if argument else _escaped(item), ""]
    lines[:] = made


def _escaped(text: str) -> str:
    """Plain text as reStructuredText: `code` as a literal, numbers of equations as links, nothing else special."""
    parts = text.split("`")
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"\\ ``{part}``\\ "
        else:
            part = re.sub(r"([*|_\\])", r"\\\1", part)
            part = CITATION.sub(lambda m: re.sub(r"[\d.]+\d", _equation, m[0]), part)
            parts[i] = part.replace("docs/mathematics.md", "`the mathematics <../mathematics.html>`__")
    return "".join(parts)


def _equation(number: re.Match[str]) -> str:
    return f"`{number[0]} <../mathematics.html#eq-{number[0]}>`__"


def front_page(app: Sphinx, exception: Exception | None) -> None:
    """The README is what a browser that is given the folder shows."""
    if exception is None:
        shutil.copyfile(Path(app.outdir) / f"{app.config.root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect all of it."""
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.connect("builder-inited", reference)
    app.connect("source-read", contents)
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("build-finished", front_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
