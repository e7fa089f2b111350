"""The tables of docs/ that show some of Table 1: made from the finished cells, and put between their marks.

A page says `<!-- table: NAME -->` where one begins and `<!-- end of table -->` where it ends.
"""

import functools
import re
from collections.abc import Callable, Iterable

from experiments.table1.claims import Results, gain, gap, share
from experiments.table1.tables import Times, nats, share_of_gap
from gpvae_jax.evaluate.paired import holm

Tables = dict[str, tuple[Results, Times]]  # DATA-LIKELIHOOD-LATENTS -> its finished rows and their times

SHOWN = "cpu"  # the scale of whose tables the pages tell
GOAL = 0.9  # of the VAE's amortization gap
_DATA = {"mnist": "MNIST", "omniglot": "Omniglot", "fashion_mnist": "Fashion-MNIST"}
_STEPS = {  # rows of the table of steps, as its page names them
    "newton 1": "`newton`, one step",
    "newton 1 of 2 draws": "one step of two draws",
    "newton 2": "two steps",
    "iterative 1": "`iterative`, one step",
    "savi 2": "`savi`, two steps",
    "savi 4": "`savi`, four steps",
    "savi 8": "`savi`, eight steps",
}
_ONE_TRUNK = "recmix 3 of one trunk"
_COMPONENTS = (2, 3, 4, 5)
_MIXTURES = ("wide vae", *(f"{name} {m}" for name in ("mixture", "recmix") for m in _COMPONENTS), _ONE_TRUNK)


def fill(page: str, tables: Tables) -> str:
    """The page with every marked table made anew; raises ValueError, one sentence, at a name that there is not."""

    def made(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name not in EXCERPTS:
            raise ValueError(f"There is no table '{name}' to put into a page; there are {', '.join(EXCERPTS)}.")
        return f"{begin}\n\n{EXCERPTS[name](tables)}\n\n{end}"

    return re.sub(r"(<!-- table: (.+?) -->).*?(<!-- end of table -->)", made, page, flags=re.DOTALL)


def newton_step(tables: Tables) -> str:
    """What one step of `newton` closes of each table's gap, and for how much time."""
    head = ["", "latents", "the VAE's gap", "of it, `newton`", "time", "IWAE-5000 gain", "nine tenths?"]
    lines = [_line(head), "|:---|" + "---:|" * 5 + ":---|"]
    for name, (rows, times) in tables.items():
        if "newton 1" in rows:
            found = gap(rows)
            cells = [f"{found.mean:.1f} ± {found.se:.1f}", share_of_gap(rows, "newton 1"), _times(times, "newton 1")]
            cells += [_gain(rows, "newton 1", "vae"), nine_tenths(rows, "newton 1")]
            lines.append(_line([_title(name), str(_latents(name)), *cells]))
    return "\n".join(lines)


def steps(tables: Tables) -> str:
    """What more steps, more draws and plain gradient steps do, in the tables that have them."""
    head = ["", "posterior", "time", "of the gap", "ELBO gain", "IWAE-5000 gain"]
    lines = [_line(head), "|:---|:---|" + "---:|" * 4]
    for name, (rows, times) in tables.items():
        for title, posterior in _STEPS.items() if "newton 2" in rows else ():
            if title in rows:
                won = [_gain(rows, title, "vae", bound) for bound in ("elbo", None)]
                cells = [f"{_title(name)}, {_latents(name)}", posterior, _times(times, title)]
                lines.append(_line([*cells, share_of_gap(rows, title), *won]))
    return "\n".join(lines)


def mixture_gains(tables: Tables, latents: int) -> str:
    """Mixtures' IWAE bound of the most samples over the VAE's, a column per table of so many latents."""
    of = _of_mixtures(tables, latents)
    return _columns(of, _MIXTURES, lambda name, title: _gain(of[name][0], title, "vae"))


def mixture_differences(tables: Tables, latents: int) -> str:
    """RecMix less the end-to-end mixture of as many components, in bold where it is significant (Holm, all of them)."""
    of = _of_mixtures(tables, latents)
    found = {
        (name, f"{m} components"): gain(rows, f"recmix {m}", f"mixture {m}")
        for name, (rows, _) in of.items()
        for m in _COMPONENTS
    }
    p_values = dict(zip(found, map(float, holm([g.p_value for g in found.values()])), strict=True))

    def cell(name: str, components: str) -> str:
        g = found[name, components]
        text = nats(g._asdict())
        return f"**{text}**" if g.is_significant(p_values[name, components]) else text

    return _columns(of, [f"{m} components" for m in _COMPONENTS], cell)


def mixture_times(tables: Tables, latents: int) -> str:
    """Inference times of mixtures, in the VAE's of the same table."""
    of = _of_mixtures(tables, latents)
    return _columns(of, _MIXTURES, lambda name, title: _times(of[name][1], title))


EXCERPTS: dict[str, Callable[[Tables], str]] = {
    "newton step": newton_step,
    "steps": steps,
    "mixture gains, 20 latents": functools.partial(mixture_gains, latents=20),
    "mixture gains, 10 latents": functools.partial(mixture_gains, latents=10),
    "mixture differences, 20 latents": functools.partial(mixture_differences, latents=20),
    "mixture differences, 10 latents": functools.partial(mixture_differences, latents=10),
    "mixture times, 20 latents": functools.partial(mixture_times, latents=20),
}


def _of_mixtures(tables: Tables, latents: int) -> Tables:
    """The tables of so many latents that have all rows of mixtures."""
    return {name: t for name, t in tables.items() if _latents(name) == latents and set(_MIXTURES) <= t[0].keys()}


def _columns(tables: Tables, titles: Iterable[str], cell: Callable[[str, str], str]) -> str:
    lines = [_line(["", *map(_title, tables)]), "|:---|" + "---:|" * len(tables)]
    return "\n".join([*lines, *(_line([title, *(cell(name, title) for name in tables)]) for title in titles)])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _gain(rows: Results, a: str, b: str, bound: str | None = None) -> str:
    return nats(gain(rows, a, b, bound)._asdict())


def _title(name: str) -> str:
    data, likelihood, _ = name.rsplit("-", 2)
    return f"{_DATA.get(data, data)}, {likelihood.capitalize()}"


def _latents(name: str) -> int:
    return int(name.rpartition("-")[2])


def _times(times: Times, title: str) -> str:
    return f"{times.median[title] / times.median['vae']:.1f}×" if title in times.median else "–"


def nine_tenths(rows: Results, title: str) -> str:
    """Whether nine tenths of the gap are closed, or no less by more than the error."""
    found = share(rows, title)
    return "yes" if found.mean >= GOAL else ("within the error" if found.mean + found.se >= GOAL else "no")
