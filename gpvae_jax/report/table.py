"""A comparison as a table: Markdown, CSV, LaTeX, or for the terminal."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, overload

from gpvae_jax.naming import unknown
from gpvae_jax.report.columns import Column, columns
from gpvae_jax.report.rows import CompareRow

if TYPE_CHECKING:
    from rich.table import Table

_TERMINAL = 100  # characters that the table is laid out for
# what a narrower terminal goes without, the first first: columns by the first of their names in CSV
_DISPENSABLE = ("train_seconds", "num_params", "epochs", "difference_se_seeds", "ess")
FORMATS = ("markdown", "csv", "latex", "rich")


@overload
def table(rows: Sequence[CompareRow], format: Literal["markdown", "csv", "latex"]) -> str: ...
@overload
def table(rows: Sequence[CompareRow], format: Literal["rich"], *, width: int | None = None) -> "Table": ...
def table(rows: Sequence[CompareRow], format: str, *, width: int | None = None) -> "str | Table":
    """The comparison as text ("markdown", "csv", "latex") or as a table for the terminal ("rich").

    width: of the terminal, in characters; a narrow one is shown fewer columns, and told which it is not.
    LaTeX needs the package booktabs. CSV holds unrounded numbers, the standard errors in columns of their own, nothing
    where a value is unknown.
    Raises ValueError on another format or where the rows cannot be compared.
    """
    writers: dict[str, Callable[[Sequence[CompareRow]], str | Table]] = {
        "markdown": _markdown,
        "csv": _csv,
        "latex": _latex,
        "rich": lambda rows: _rich(rows, width),
    }
    if format not in writers:
        raise ValueError(unknown("table format", format, FORMATS))
    return writers[format](rows)


def _markdown(rows: Sequence[CompareRow]) -> str:
    shown = columns(rows)
    lines = [[column.title for column in shown], *zip(*(_cells(c, "**{}**") for c in shown), strict=True)]
    text = ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|:---|" + "---:|" * (len(shown) - 1), *text[1:]]) + "\n"


def _csv(rows: Sequence[CompareRow]) -> str:
    numbers = {key: values for column in columns(rows) for key, values in column.numbers.items()}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(numbers)
    writer.writerows(zip(*numbers.values(), strict=True))
    return buffer.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "†": r"$\dagger$",
    "<": "$<$",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_ESCAPES = str.maketrans(dict(_LATEX))


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it."""
    return text.translate(_ESCAPES)


def _cells(column: Column, bold: str, escape: Callable[[str], str] = str) -> list[str]:
    """Value and what stands beside it; values in bold are put into the pattern `bold`."""
    texts = [bold.format(escape(t)) if i in column.bold else escape(t) for i, t in enumerate(column.texts)]
    return [f"{text} {escape(aside)}".strip() for text, aside in zip(texts, column.asides, strict=True)]


def _latex(rows: Sequence[CompareRow]) -> str:
    shown = columns(rows)
    cells = [[escape_latex(c.title), *_cells(c, r"\textbf{{{}}}", escape_latex)] for c in shown]
    head, *body = [" & ".join(line) + r" \\" for line in zip(*cells, strict=True)]
    start = r"\begin{tabular}{l" + "r" * (len(shown) - 1) + "}"
    return "\n".join([start, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _rich(rows: Sequence[CompareRow], width: int | None) -> "Table":
    """Two lines a method, the value above and what belongs to it below, so that 100 columns hold the table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text  # not markup: a name may hold brackets

    shown, omitted = columns(rows), []
    for name in _DISPENSABLE:
        if width is None or _width(shown) + len(shown) <= width:
            break
        omitted += [column.title for column in shown if name in column.numbers]
        shown = [column for column in shown if name not in column.numbers]
    count = f"{rows[0].num_examples:,}"
    caption = f"Bounds in nats per example, higher is better; ± standard error over {count} test examples."
    result = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1 if _width(shown) + 2 * len(shown) <= (width or _TERMINAL) else 0),
        collapse_padding=True,
        pad_edge=False,
        caption=caption + (f" No room here for: {', '.join(omitted)}." if omitted else ""),
        caption_justify="left",
    )
    for column in shown:  # folded where there is no room, for a number cut short would be a wrong number
        side: Literal["left", "right"] = "left" if column is shown[0] else "right"
        result.add_column(Text(column.short), justify=side, vertical="top", overflow="fold")
    for index in range(len(rows)):
        result.add_row(
            *(
                Text(f"{c.texts[index]}\n{c.asides[index]}".rstrip(), style="bold" if index in c.bold else "")
                for c in shown
            )
        )
    return result


def _width(shown: Sequence[Column]) -> int:
    """Characters that the columns take without what is between them."""
    return sum(max(map(len, [*column.short.split("\n"), *column.texts, *column.asides])) for column in shown)
