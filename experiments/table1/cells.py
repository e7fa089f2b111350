"""What Table 1 is made of: rows, data sets, scales, and the queue's order."""

import itertools
from typing import NamedTuple

from gpvae_jax.compare import folder_name
from gpvae_jax.naming import unknown

DATASETS = ("mnist", "omniglot", "fashion_mnist", "cifar10", "svhn_cropped", "celeb_a")
LIKELIHOODS = {  # and the data sets that each is for
    "gaussian": DATASETS,
    "bernoulli": ("mnist", "omniglot", "fashion_mnist"),
}
LATENTS = (10, 20, 50)
CHOICE_LATENTS = 20  # at which a family's settings are chosen, for all latents and orders


class Row(NamedTuple):
    """One method of the table."""

    title: str
    family: str  # whose choice of settings it takes, and its place in the papers' order
    label: str  # NAME:setting=value:…, as `gpvae compare` reads it
    tier: int  # 1: what the papers claim; 2: more rivals and compositions; 3: the other orders
    cost: float  # training time per image, in a VAE's; only for the first estimates
    own_shapes: bool = False  # cannot start from the VAE


ROWS = (
    Row("vae", "vae", "vae", 0, 1.0),
    Row("gpvae", "gpvae", "gpvae", 1, 1.5),
    Row("recmix 3", "recmix", "recmix:num_components=3", 1, 3.4),
    Row("mixture 3", "mixture", "mixture:num_components=3", 1, 2.8),
    Row("iaf 2", "iaf", "iaf:steps=2", 1, 1.9),
    Row("savi 2", "savi", "savi:steps=2", 1, 4.1),
    Row("wide vae", "vae", "vae:model.capacity=mixture,num_components=3", 1, 2.0, own_shapes=True),
    Row("householder", "householder", "householder", 2, 1.1),
    Row("newton 1", "newton", "newton:steps=1", 2, 2.6),
    Row("newton 2", "newton", "newton:steps=2", 3, 4.2),
    Row("newton 1 of 2 draws", "newton", "newton:steps=1:inner_samples=2", 3, 4.2),
    Row("iterative 1", "iterative", "iterative:steps=1", 3, 2.8),
    Row("newton 1 on gpvae", "newton on gpvae", "newton:steps=1:base=gpvae", 2, 3.2),
    Row("savi 2 on gpvae", "savi", "savi:steps=2:base=gpvae", 2, 4.8),
    Row("recmix 3 of gpvae", "recmix", "recmix:num_components=3:base=gpvae", 2, 5.0),
    Row("mixture 3 of gpvae", "mixture", "mixture:num_components=3:base=gpvae", 2, 4.4),
    Row("recmix 3 of one trunk", "recmix", "recmix:num_components=3:shared_trunk=true", 3, 2.4),
    *(Row(f"recmix {m}", "recmix", f"recmix:num_components={m}", 3, 1.15 * m) for m in (2, 4, 5)),
    *(Row(f"mixture {m}", "mixture", f"mixture:num_components={m}", 3, 0.94 * m) for m in (2, 4, 5)),
    *(Row(f"iaf {t}", "iaf", f"iaf:steps={t}", 3, 1.1 + 0.44 * t) for t in (1, 4, 8)),
    *(Row(f"savi {k}", "savi", f"savi:steps={k}", 3, 1.1 + 1.5 * k) for k in (1, 4, 8)),
)
BY_TITLE = {row.title: row for row in ROWS}

RECURSION = "against=earlier:initial_epsilon=0.1:epsilon=amortized"  # RecMix as the paper has it
RATES = ("train.learning_rate=1e-3", "train.learning_rate=2e-3")
# family -> its settings to choose from on validation images, with either learning rate; "" is the default
CHOICES: dict[str, tuple[str, ...]] = {
    "vae": ("",),
    "gpvae": ("", "unit_features=true"),
    "recmix": (  # the paper's recursion, with other caps; each component held against all others; everything jointly
        RECURSION,
        f"{RECURSION}:cap=0.5",
        f"{RECURSION}:cap=10",
        f"{RECURSION}:cap=500",
        "against=others:initial_epsilon=0:epsilon=amortized",
        "against=others:initial_epsilon=0:epsilon=constant",
        "refinement=joint:initial_epsilon=0:epsilon=amortized",
    ),
    "mixture": ("", "weights=amortized"),
    "iaf": ("", "gate_bias=1"),
    "savi": ("", "step_size=1"),
    "householder": ("", "steps=8"),
    "newton": ("", "curvature=learned:covariance=base"),
    "iterative": ("", "step_size=1"),
    "newton on gpvae": ("use_gp_prior=true", "use_gp_prior=false"),
}


class Scale(NamedTuple):
    """How large everything is."""

    architecture: str
    hidden: tuple[int, ...]  # of the mlp
    train_examples: int | None  # at most so many
    start_epochs: int  # of the VAE that others start from
    epochs: int
    trial_epochs: int  # of one choice of settings
    warm: bool  # all start from that VAE; else only RecMix does, and the others train for both numbers of epochs
    num_seeds: int
    test_examples: int | None
    trial_examples: int  # of the validation set
    num_samples: tuple[int, ...]
    patience: int | None
    # only for the first estimates, for a VAE of 28×28 images:
    images_per_second: float  # of training, all seeds together
    bound_seconds: float  # per sample of an importance bound, image and seed


GUESSES = ("images_per_second", "bound_seconds")  # of a scale: results do not depend on them
SCALES = {  # times measured on one CPU core; on a GPU guessed
    "cpu": Scale("mlp", (400, 400), 50_000, 10, 10, 4, True, 3, 500, 500, (100, 5000), None, 21_000, 6e-6),
    "cpu-long": Scale("mlp", (400, 400), 50_000, 20, 20, 4, True, 3, 500, 500, (100, 5000), None, 21_000, 6e-6),
    "gpu-mlp": Scale("mlp", (400, 400), 50_000, 10, 10, 4, True, 10, 1000, 500, (100, 5000), None, 1e6, 5e-7),
    "gpu": Scale("conv", (400, 400), None, 20, 40, 10, False, 10, None, 1000, (100, 5000), 15, 1e5, 5e-7),
}


class Cell(NamedTuple):
    """One piece of work: a row of one table, the VAE that others start from, or a family's choice of settings."""

    data: str
    likelihood: str
    latents: int
    kind: str  # "start", "choice" or "row"
    title: str  # of the row; the choice's family; "start"

    @property
    def group(self) -> str:
        """The table it belongs to."""
        return f"{self.data}-{self.likelihood}-{self.latents}"

    @property
    def name(self) -> str:
        """Its place below the folder of runs, and of results."""
        kind = "choice-" if self.kind == "choice" else ""
        return f"{self.group}/{kind}{folder_name(self.title)}"


def needs(cell: Cell) -> list[Cell]:
    """The cells that are done before this one: what it reads, and the row that the page holds it against."""
    if cell.kind == "start":
        return []
    start = cell._replace(kind="start", title="start")
    if cell.kind == "choice":
        return [start]
    choice = cell._replace(latents=CHOICE_LATENTS, kind="choice", title=BY_TITLE[cell.title].family)
    reference = [] if cell.title == "vae" else [cell._replace(title="vae")]
    return [start, choice, *reference]


def candidates(family: str) -> list[str]:
    """The settings that a family chooses from, as the end of a label."""
    return [":".join(filter(None, pair)) for pair in itertools.product(CHOICES[family], RATES)]


def queue(
    datasets: tuple[str, ...], latents: tuple[int, ...], likelihoods: tuple[str, ...], methods: tuple[str, ...]
) -> list[Cell]:
    """The cells asked for, empty filters asking for all, and those they need; the most informative first.

    A method is a row's title, with - or _ for blanks if you like, else a family, for all its orders. Raises ValueError,
    one sentence, on a name that is not known and where the filters leave nothing.
    """
    for kind, asked, known in (
        ("data set", datasets, DATASETS),
        ("likelihood", likelihoods, tuple(LIKELIHOODS)),
        ("number of latents", tuple(map(str, latents)), tuple(map(str, LATENTS))),
    ):
        for name in asked:
            if name not in known:
                raise ValueError(unknown(kind, name, known))
    rows = [row for row in ROWS if not methods or row.title in _titles(methods)]
    order = itertools.product(
        [d for d in DATASETS if not datasets or d in datasets],
        [z for z in LATENTS if not latents or z in latents],
        [name for name in LIKELIHOODS if not likelihoods or name in likelihoods],
    )
    tables = [(data, likelihood, z) for data, z, likelihood in order if data in LIKELIHOODS[likelihood]]
    if not tables:
        raise ValueError(
            f"The likelihood {' or '.join(likelihoods)} is only for {', '.join(LIKELIHOODS[likelihoods[0]])}, so these "
            "filters leave nothing; widen --datasets or --likelihoods."
        )
    ordered = sorted(itertools.product(tables, rows), key=lambda pair: pair[1].tier)  # stable
    cells: dict[Cell, None] = {}
    for table, row in ordered:
        _add(Cell(*table, "row", row.title), cells)
    return list(cells)


def _add(cell: Cell, cells: dict[Cell, None]) -> None:
    for needed in needs(cell):
        _add(needed, cells)
    cells.setdefault(cell)


def _titles(methods: tuple[str, ...]) -> set[str]:
    """The titles of the rows that these names stand for."""
    found: set[str] = set()
    for name in methods:
        plain = name.replace("-", " ").replace("_", " ")
        of_family = {row.title for row in ROWS if plain == row.family or row.title.startswith(plain + " ")}
        matching = {plain} if plain in BY_TITLE else of_family
        if not matching:
            raise ValueError(unknown("method", name, {*BY_TITLE, *CHOICES}))
        found |= matching
    return found
