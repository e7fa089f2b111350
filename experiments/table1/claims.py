"""What the papers claim of the order of the methods, held against a table."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.table1.cells import BY_TITLE
from gpvae_jax.evaluate.paired import Paired, holm, paired

Results = dict[str, dict[str, Any]]  # title -> what the finished row left

# the papers' order, better family first (posts: Kim & Pavlovic 2020, Kim 2022)
CLAIMS = (
    ("recmix", "mixture"),
    ("mixture", "iaf"),
    ("iaf", "savi"),
    ("savi", "vae"),
    ("gpvae", "vae"),
)


class Share(NamedTuple):
    """Of the VAE's amortization gap, what a row's ELBO is above the VAE's."""

    mean: float
    se: float  # over images


def shares_start(rows: Results, a: str, b: str) -> bool:
    """Whether two rows went on from the same parameters, or one of them from none; False where it is not known.

    A start that was trained again differs from the first by what rounding does in ten epochs, which is of the order of
    the differences between methods.
    """
    starts = [rows[title].get("start", "unknown") for title in (a, b)]
    return None in starts or (starts[0] == starts[1] != "unknown")


def marked(rows: Results, title: str) -> str:
    """The title, with a dagger where the row went on from another start than the VAE's."""
    return title if title == "vae" or shares_start(rows, title, "vae") else f"{title} †"


def gain(rows: Results, a: str, b: str, bound: str | None = None) -> Paired:
    """a's bound less b's, that of the most samples if none is named, paired by images and by seeds, in nats."""
    bound = bound or f"iwae_{max(rows[a]['num_samples'])}"
    return paired(_values(rows[b], bound), _values(rows[a], bound))


def gains(rows: Results) -> dict[str, Paired]:
    """Every row's over the VAE, in the bound of the most samples, the p-values Holm-corrected for the table."""
    found = {title: gain(rows, title, "vae") for title in rows if title != "vae"}
    known = {title: g.p_value for title, g in found.items() if math.isfinite(g.p_value)}
    corrected = dict(zip(known, map(float, holm(list(known.values()))), strict=True))
    return {title: g._replace(p_value=corrected.get(title, math.nan)) for title, g in found.items()}


def gap(rows: Results) -> Paired:
    """The VAE's amortization gap: the ELBO of each image's best diagonal Gaussian less that of the encoder's, nats."""
    found = _values(rows["vae"], "amortization_gap")
    return paired(np.zeros_like(found), found)


def share(rows: Results, title: str) -> Share:
    """The row's ELBO gain over that gap, on the same images."""
    vae, gaps, own = (
        np.array(rows[name]["values"][of]["images"], np.float64)
        for name, of in (("vae", "elbo"), ("vae", "amortization_gap"), (title, "elbo"))
    )
    return share_of(own[: len(gaps)] - vae[: len(gaps)], gaps)


def share_of(gains: Float[np.ndarray, " N"], gaps: Float[np.ndarray, " N"]) -> Share:
    """A ratio r of means over images, Σ_n g_n / Σ_n G_n.

    Its error is that of the linearised ratio, the standard error of g_n − r G_n over the mean of G.
    """
    ratio = gains.mean() / gaps.mean()
    error = np.std(gains - ratio * gaps, ddof=1) / math.sqrt(len(gaps)) / abs(gaps.mean())
    return Share(float(ratio), float(error))


def _values(found: dict[str, Any], bound: str) -> np.ndarray:
    """[R, N] with the row's means over seeds and over images, from which the pairing cannot tell its own values."""
    kept = found["values"][bound]
    images, seeds = (np.array([math.nan if v is None else v for v in kept[name]]) for name in ("images", "seeds"))
    return images + (seeds - seeds.mean())[:, None]


def representatives(rows: Results) -> dict[str, str]:
    """Family -> its finished row with the highest validation ELBO, compositions and the wider VAE left out."""
    best: dict[str, str] = {}
    for title, found in rows.items():
        family = BY_TITLE[title].family
        if "base=" in BY_TITLE[title].label or BY_TITLE[title].own_shapes:
            continue
        if family not in best or found["validation_elbo"] > rows[best[family]]["validation_elbo"]:
            best[family] = title
    return best


def sentence(rows: Results) -> str:
    """Where this table's order agrees with the papers', where it differs, and where it cannot be told."""
    best = representatives(rows)
    pairs = [(best[a], best[b]) for a, b in CLAIMS if a in best and b in best]
    found = {pair: g for pair in pairs if math.isfinite((g := gain(rows, *pair)).p_value)}
    if not found:
        return "None of the papers' claims about the order can be judged from the rows that are done."
    p_values = dict(zip(found, holm([g.p_value for g in found.values()]), strict=True))
    names = {title: marked(rows, title) for title in best.values()}
    kinds: dict[str, list[str]] = {"agrees": [], "differs": [], "cannot be told": []}
    for (a, b), g in found.items():
        if not g.is_significant(float(p_values[a, b])):
            kinds["cannot be told"].append(f"{names[a]} and {names[b]} ({_nats(g)})")
        elif g.mean > 0:
            kinds["agrees"].append(f"{names[a]} above {names[b]} ({_nats(g)})")
        else:
            kinds["differs"].append(f"{names[b]} above {names[a]} ({_nats(g._replace(mean=-g.mean))})")
    text = "; ".join(f"{kind}: {', '.join(pairs)}" for kind, pairs in kinds.items() if pairs)
    return f"Against the papers' order (each family by its best validation ELBO, Holm-corrected) — {text}."


def _nats(g: Paired) -> str:
    return f"{g.mean:+.2f} ± {g.se:.2f} nats".replace("-", "−")
