"""The Python of the README and the pages runs, block after block, and what is said of files and commands is true."""

import re
from pathlib import Path

import pytest

from gpvae_jax.cli import COMMANDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    elbo, iwae = (float(number) for number in re.findall(r"-\d+\.\d+", printed))
    assert -40 < elbo < iwae < -15  # 20 epochs on the digits; an untrained model has −44


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_the_pages_python_runs(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, page, "exec"), names)
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / path).exists(), path


def test_commands_and_files_exist() -> None:
    assert set(re.findall(r"^gpvae (\w+)", TEXT, re.MULTILINE)) == set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for path in re.findall(r"`(gpvae_jax/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path
