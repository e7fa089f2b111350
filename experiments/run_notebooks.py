"""Execute the notebooks and keep their outputs, without what differs from machine to machine.

    python -m experiments.run_notebooks
    python -m experiments.run_notebooks experiments/notebooks/seeds.ipynb

Each runs in a fresh kernel, from its first cell to its last; one that raises is left as it was. Needs the extra `docs`;
`make notebooks` installs it. One to two minutes each on two CPU cores. Writes into experiments/notebooks/.
"""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from experiments.command_line import command_line
from gpvae_jax.files import write_text
from gpvae_jax.progress import say

FOLDER = Path(__file__).parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_SECONDS = 600  # a cell that takes longer has hung


@dataclasses.dataclass(frozen=True)
class RunNotebooks:
    """Which."""

    notebooks: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Paths (default: all)."""


def main(command: RunNotebooks) -> None:
    """Execute, strip, write."""
    import nbformat

    for path in command.notebooks or sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(path)
        write_text(path, nbformat.writes(stripped(notebook)) + "\n")
        say(f"{path}")


def execute(path: Path) -> Any:
    """The notebook as it is after all its cells have run. Raises nbclient's CellExecutionError where one fails."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=where).execute()
    return notebook


def stripped(notebook: Any) -> Any:
    """The same with nothing of the machine or the moment: cells numbered, no times, the kernel by its common name."""
    notebook.metadata = type(notebook.metadata)(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", type(cell.metadata)()
    return notebook


if __name__ == "__main__":
    command_line(main, RunNotebooks, __doc__)
