"""All tables of a scale at a glance."""

from collections.abc import Callable

from experiments.table1.claims import Results, gains, marked, share
from experiments.table1.tables import reading_order

SHORT = {"gaussian": "G", "bernoulli": "B"}
_WON = (
    "Gain over the VAE in the IWAE bound of the most samples, nats; in bold where it is significant, as below. "
    "G: Gaussian likelihood, B: Bernoulli, and the number of latents."
)
_CLOSED = "Gain in ELBO as a share of the VAE's amortization gap."


def overview(budget: str, tables: list[Results]) -> str:
    """Methods by tables: gains over the VAE, then shares of its gap."""
    over_vae = [gains(rows) for rows in tables]

    def won(number: int, title: str) -> str:
        found = over_vae[number][title]
        text = f"{found.mean:+.2f}".replace("-", "−") + marked(tables[number], title).removeprefix(title)
        return f"**{text}**" if found.is_significant(found.p_value) else text

    def closed(number: int, title: str) -> str:
        return f"{100 * share(tables[number], title).mean:.0f} %".replace("-", "−")

    parts = [f"## Scale {budget}, at a glance", _WON, _matrix(tables, won), _CLOSED, _matrix(tables, closed)]
    return "\n\n".join(parts) + "\n"


def _matrix(tables: list[Results], cell: Callable[[int, str], str]) -> str:
    """A row per method that any table has, a column per table; empty where a table has not got it yet."""
    titles = [title for title in reading_order() if title != "vae" and any(title in rows for rows in tables)]
    lines = ["| | " + " | ".join(map(_name, tables)) + " |", "|:---|" + "---:|" * len(tables)]
    for title in titles:
        cells = [cell(number, title) if title in rows else "" for number, rows in enumerate(tables)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _name(rows: Results) -> str:
    cell = rows["vae"]["cell"]
    return f"{cell['data'].replace('_', ' ')} {SHORT[cell['likelihood']]} {cell['latents']}"
