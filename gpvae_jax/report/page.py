"""A comparison as one HTML file that needs nothing else: no script, no network, figures inside it."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpvae_jax.files import write_text
from gpvae_jax.report.columns import Column, columns
from gpvae_jax.report.rows import CompareRow
from gpvae_jax.report.template import CSS, PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STANDARD_ERROR = (
    "The standard error of the mean over the {count} test examples: how far the mean would move with other test "
    "examples. It says nothing of how much training again with another seed would change."
)
_NATS = (
    "The unit of every bound. Only bounds on the same test examples, with the same binarisation and the same "
    "likelihood can be compared; of real-valued data they are log-densities and may lie above zero."
)


class Picture(NamedTuple):
    """A figure of the report."""

    title: str
    caption: str  # what is to be seen, in a sentence or two
    figure: "Figure"


def png(figure: "Figure", dpi: int = 160) -> bytes:
    """The figure as a PNG on white; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def write_report(
    path: Path | str,
    title: str,
    *,
    run: Mapping[str, Any],
    rows: Sequence[CompareRow],
    pictures: Sequence[Picture],
    command: str,
    notes: Sequence[str] = (),
) -> Path:
    """Write `page(…)` to `path` and return that; the arguments are those of `page`.

    The file appears whole or not at all: a failure leaves what was there before. Raises ValueError where the rows
    cannot be compared and FileNotFoundError where the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The report's folder {path.parent} does not exist; make it first.")
    write_text(path, page(title, run=run, rows=rows, pictures=pictures, command=command, notes=notes))
    return path


def page(
    title: str,
    *,
    run: Mapping[str, Any],
    rows: Sequence[CompareRow],
    pictures: Sequence[Picture],
    command: str,
    notes: Sequence[str] = (),
) -> str:
    """The report as HTML.

    run: what was run, label -> value, in the order to be shown; a good report has data, split, binarisation,
    likelihood, networks, seed, epochs, device and versions. A value may be a dict or a list. rows: the first is the
    one the others are compared with. command: reproduces the report. notes: sentences shown above the table.
    All text is escaped. Raises ValueError where the rows cannot be compared.
    """
    shown, count = columns(rows), rows[0].num_examples
    above = _paragraphs("note", notes) + _paragraphs("warning", _not_finite(rows))
    parts = [
        f"<h1>{escape(title)}</h1>",
        _section("What was run", _pairs((label, _text(value)) for label, value in run.items())),
        _section("Results", above + _table(shown, count)),
        *(_section(picture.title, _figure(picture)) for picture in pictures),
        _section("How to read the table", _explanations(shown, count)),
        _section("Reproduce", f"<pre><code>{escape(command)}</code></pre>"),
    ]
    return PAGE.format(title=escape(title), css=CSS, body="\n".join(parts))


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    lines = (f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in pairs)
    return "<dl>\n" + "\n".join(lines) + "\n</dl>"


def _text(value: Any) -> str:
    """A setting in words: a dict as "name value, …", a list as "…, …"."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def _paragraphs(kind: str, texts: Sequence[str]) -> str:
    return "".join(f'<p class="{kind}">{escape(text)}</p>\n' for text in texts)


def _not_finite(rows: Sequence[CompareRow]) -> list[str]:
    """A warning naming the methods with a bound that is not a number; nothing where all is well."""
    names = [row.name for row in rows if not all(math.isfinite(mean) for mean, _ in [row.elbo, *row.iwae.values()])]
    if not names:
        return []
    return [
        f"Warning: not every bound of {', '.join(names)} is a finite number, because that of at least one test "
        "example is not. The mean is shown as it came out."
    ]


def _table(shown: Sequence[Column], num_examples: int) -> str:
    head = "".join(f'<th scope="col">{escape(column.title)}</th>' for column in shown)
    body = []
    for index in range(len(shown[0].texts)):
        name, *cells = [_cell(c.texts[index], c.asides[index], index in c.bold) for c in shown]
        body.append(f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    caption = f"Bounds in nats per example, ± standard error over {num_examples:,} test examples."
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + f"\n</tbody>\n</table></div>\n{_paragraphs('quiet', [caption])}"
    )


def _cell(text: str, aside: str, bold: bool) -> str:
    value = f"<strong>{escape(text)}</strong>" if bold else escape(text)
    return value + (f' <span class="aside">{escape(aside)}</span>' if aside else "")


def _figure(picture: Picture) -> str:
    data = base64.b64encode(png(picture.figure)).decode("ascii")
    width = round(96 * picture.figure.get_figwidth())  # CSS pixels: text in figures is as large as the page's
    alt = escape(f"{picture.title}: {picture.caption}")
    return (
        f'<figure><div class="card"><img width="{width}" alt="{alt}" src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _explanations(shown: Sequence[Column], num_examples: int) -> str:
    pairs = [(column.title, column.meaning) for column in shown]
    return _pairs([*pairs, ("± standard error", _STANDARD_ERROR.format(count=f"{num_examples:,}")), ("Nats", _NATS)])
