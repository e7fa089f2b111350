"""The queue behind Table 1: it resumes, skips, takes over and goes on past failures; the page comes from its files."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
import types
from pathlib import Path

import numpy as np
import pytest

from experiments.table1 import __main__ as command
from experiments.table1 import cells, claims, latency, locks, page, queue, status, tables, work
from experiments.table1.cells import Cell, Scale
from gpvae_jax import build, data
from gpvae_jax.commands import train_run
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import example_values
from gpvae_jax.train import DivergenceError
from tests.holding import hold

TINY = Scale("mlp", (12,), 200, 2, 2, 1, True, 2, 30, 20, (2, 4), None, 21_000, 6e-6)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> work.Job:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))
    monkeypatch.setattr(cells, "RATES", ("train.learning_rate=1e-3",))
    monkeypatch.setattr(cells, "CHOICE_LATENTS", 10)
    monkeypatch.setattr(cells, "CHOICES", cells.CHOICES | {"gpvae": ("",)})
    monkeypatch.setitem(cells.SCALES, "cpu", TINY)
    return work.Job("cpu", TINY, tmp_path / "runs", tmp_path / "results", {"mnist": "digits"})


def asked(*methods: str) -> list[Cell]:
    return cells.queue(("mnist",), (10,), ("bernoulli",), methods)


def named(job: work.Job, title: str) -> Cell:
    return Cell("mnist", "bernoulli", 10, "start" if title == "start" else "row", title)


@pytest.mark.slow
def test_an_interrupted_cell_goes_on_and_a_finished_one_is_skipped(job, monkeypatch, tmp_path):
    def killed(folder, settings, data, step=None):
        def stop(done: float, text: str) -> None:
            if done >= 0.5:
                raise KeyboardInterrupt

        return train_run(folder, settings, data, stop)

    wanted, started = asked("vae"), time.time()
    assert [cell.title for cell in wanted] == ["start", "vae", "vae"]
    with monkeypatch.context() as patched:
        patched.setattr(work, "train_run", killed)
        with pytest.raises(KeyboardInterrupt):
            queue.work(job, wanted, started)
    metrics = job.folder(wanted[0]) / "metrics.jsonl"
    (first,) = metrics.read_text().splitlines()
    assert not list(job.runs.rglob("*.lock"))

    queue.work(job, wanted, started)
    assert {queue.state(job, cell, started).name for cell in wanted} == {"done"}
    lines = metrics.read_text().splitlines()
    assert (len(lines), lines[0]) == (2, first)
    found = job.read(wanted[2])
    assert found["label"] == "vae:train.learning_rate=1e-3"
    assert (found["num_examples"], found["num_seeds"]) == (30, 2)
    for bound in ("elbo", "iwae_4"):
        kept = found["values"][bound]
        assert (len(kept["images"]), len(kept["seeds"])) == (30, 2)
        np.testing.assert_allclose(np.mean(kept["images"]), found["test"][bound]["mean"], atol=1e-3)
    assert np.mean(found["values"]["amortization_gap"]["images"]) > 0
    assert found["test"]["iwae_4"]["mean"] > found["test"]["elbo"]["mean"]

    before = {path: path.stat().st_mtime_ns for path in job.results.rglob("*.json")}
    queue.work(job, wanted, time.time())
    assert before == {path: path.stat().st_mtime_ns for path in job.results.rglob("*.json")}

    monkeypatch.setattr(cells, "CHOICES", cells.CHOICES | {"gpvae": ("unit_features=perhaps",)})
    wanted, started = asked("vae", "gpvae"), time.time()
    queue.work(job, wanted, started)  # a family that fails
    states = {cell.name.split("/")[1]: queue.state(job, cell, started) for cell in wanted}
    assert "unit_features must be true or false" in states["choice-gpvae"].reason
    assert "needs mnist-bernoulli-10/choice-gpvae, which failed" in states["gpvae"].reason
    assert states["vae"].name == "done"

    monkeypatch.setattr(cells, "CHOICES", cells.CHOICES | {"gpvae": ("",)})
    started = time.time()
    assert queue.state(job, wanted[-1], started).name == "waiting"  # an old failure is tried again
    queue.work(job, wanted, started)
    rows = {title: job.read(named(job, title)) for title in ("vae", "gpvae")}
    own = [example_values(job.folder(named(job, title)))["iwae_4"] for title in rows]
    kept, direct = claims.gain(rows, "gpvae", "vae"), paired(*own)
    np.testing.assert_allclose(kept[:3], direct[:3], atol=1e-3)
    np.testing.assert_allclose(kept.p_value, direct.p_value, atol=0.05)  # ranks of rounded differences
    with pytest.raises(ValueError, match="mnist-bernoulli-10 has no inference time of its VAE; run"):
        page.main(page.Page(job.results, job.results / "page.md", job.results))
    latency.main(latency.Latency(("mnist=digits",), job.results, seconds=0.01))
    page.main(page.Page(job.results, job.results / "page.md", job.results))
    text = (job.results / "page.md").read_text()
    assert "## mnist, bernoulli likelihood, 10 latents" in text
    assert re.search(r"at a glance\n[^#]*\n\| gpvae \| [*+−\d.]+ \|\n[^#]*\n\| gpvae \| −?\d+ % \|\n", text)
    assert re.search(r"\n\| gpvae \| −\d+\.\d\d ± ", text)
    assert (job.results / "cpu" / "mnist-bernoulli-10.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"\n\| gpvae \| .* \| \d+\.\d\d \(\d+\.\d×\) \|", text)
    times = tables.latency_file(job.results / "cpu" / "mnist-bernoulli-10")
    measured = json.loads(times.read_text())
    del measured["latency_ms"]["gpvae"]  # as of a row that was finished later
    times.write_text(json.dumps(measured))
    page.main(page.Page(job.results, job.results / "page.md", job.results))
    assert re.search(r"\n\| gpvae \| .* \| – \| \d+ \|", (job.results / "page.md").read_text())
    work.check_scale(job._replace(scale=TINY._replace(images_per_second=1.0)), wanted)
    with pytest.raises(ValueError, match="was made with epochs = 2, but 'cpu' now means 3"):
        work.check_scale(job._replace(scale=TINY._replace(epochs=3)), wanted)

    # on another machine only the small files are there
    shutil.rmtree(job.runs)
    start, row = wanted[0], wanted[-1]
    work.renew_starts(job, wanted)
    assert job.result(start).is_file()  # no row needs it
    job.result(row).unlink()
    work.renew_starts(job, wanted)
    assert not job.result(start).is_file()
    queue.work(job, wanted, time.time())
    assert job.read(start)["parameters"] == found["start"] == rows["gpvae"]["start"]  # to the last bit
    np.testing.assert_allclose(*(of["values"]["elbo"]["seeds"] for of in (job.read(row), rows["gpvae"])), atol=0.1)

    job.result(row).unlink()
    np.save(tmp_path / "own.npy", np.random.default_rng(0).random((250, 8, 8), dtype=np.float32))
    other = job._replace(files={"mnist": str(tmp_path / "own.npy")})
    queue.work(other, [row], time.time())
    assert "was made from other images than" in queue.state(other, row, 0.0).reason


def test_settings_that_diverge_are_not_chosen(job, monkeypatch):
    bounds = {"1e-3": -90.0, "2e-3": -80.0, "unit_features": -np.inf}

    def finished(folder, *_, **options):
        if "unit_features" in folder.name and "2e-3" in folder.name:
            raise DivergenceError(1, 0, None)
        assert options["split"] == "validation"
        found = next(bound for part, bound in reversed(bounds.items()) if part in folder.name)
        return types.SimpleNamespace(folder=found)

    monkeypatch.setattr(cells, "RATES", ("train.learning_rate=1e-3", "train.learning_rate=2e-3"))
    monkeypatch.setattr(cells, "CHOICES", {"gpvae": ("", "unit_features=true")})
    monkeypatch.setattr(work, "finish_run", finished)
    monkeypatch.setattr(work, "example_values", lambda bound, split: {"iwae_2": np.full((2, 3), bound)})
    cell = named(job, "gpvae")._replace(kind="choice")
    found = work._choose(job, cell, data.load("digits"))
    assert found["chosen"] == "train.learning_rate=2e-3"
    assert list(found["trials"].values()) == [-90.0, -80.0, None, None]
    assert {end: gain["mean"] for end, gain in found["over_the_first"].items()} == {found["chosen"]: 10.0}
    bounds |= {"1e-3": np.nan, "2e-3": np.nan}
    with pytest.raises(ValueError, match="None of the settings of gpvae has finite bounds"):
        work._choose(job, cell, data.load("digits"))


def test_a_lock_is_held_by_one_and_taken_over_from_the_dead(tmp_path):
    path = tmp_path / "folder" / "cell.lock"
    with locks.held(path) as first:
        assert first
        assert locks.holder(path) == os.getpid()
        with locks.held(path) as second:
            assert not second
        assert path.exists()
    assert not path.exists()

    process = multiprocessing.get_context("spawn").Process(target=hold, args=(path,))
    process.start()
    while not path.with_suffix(".ready").exists():
        time.sleep(0.05)
    assert locks.holder(path) == process.pid
    with locks.held(path) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert path.exists()
    assert not locks.is_held(path)
    with locks.held(path) as mine:
        assert mine
        assert locks.is_held(path)
    assert not locks.is_held(path)


def test_a_stale_lock_counts_as_waiting_and_a_held_one_as_running(job):
    cell = named(job, "vae")
    lock = job.folder(cell).with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    lock.write_text(str(os.getppid()))  # a living process that has got a dead worker's number
    assert queue.state(job, cell, 0.0).name == "waiting"
    with locks.held(lock) as mine:
        assert mine
        found = queue.state(job, cell, 0.0)
        assert (found.name, found.pid) == ("running", os.getpid())


def test_the_queue_has_what_the_cells_need_first_and_the_claims_before_the_rest():
    every = cells.queue((), (), (), ())
    assert len(set(every)) == len(every)
    for number, cell in enumerate(every):
        assert set(cells.needs(cell)) <= set(every[:number])
    tiers = [cells.BY_TITLE[cell.title].tier for cell in every if cell.kind == "row"]
    assert tiers == sorted(tiers)
    assert {row.family for row in cells.ROWS} == set(cells.CHOICES)
    assert {c.title for c in asked("savi-2", "iaf") if c.kind == "row"} == {
        "vae",
        "savi 2",
        "iaf 1",
        "iaf 2",
        "iaf 4",
        "iaf 8",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"datasets": ("minst",)}, "Unknown data set 'minst'; did you mean 'mnist'?"),
        ({"latents": (11,)}, "Unknown number of latents '11'"),
        ({"likelihoods": ("poisson",)}, "Unknown likelihood 'poisson'"),
        ({"methods": ("recmx",)}, "Unknown method 'recmx'"),
        ({"datasets": ("cifar10",), "likelihoods": ("bernoulli",)}, "filters leave nothing"),
        ({"budget": "tpu"}, "Unknown scale 'tpu'"),
        ({"workers": 0}, "--workers must be at least 1, got 0"),
        ({"data": ("omniglot",)}, "--data takes NAME=FILE"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        command.main(command.Table1(**options, dry_run=True))


def test_a_dry_run_only_lists(job, capsys):
    assert command.main(command.Table1(dry_run=True, methods=("vae",), out=job.runs, results=job.results)) == 0
    assert "mnist-gaussian-10/vae" in capsys.readouterr().out
    assert not job.runs.exists()


def test_finished_cells_correct_the_estimates(job):
    cell, other = named(job, "vae"), named(job, "gpvae")
    assumed = status.estimates(job, [cell, other])
    path = job.result(cell)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"cell": cell._asdict(), "seconds": 3 * assumed[cell]}))
    np.testing.assert_allclose(status.estimates(job, [other])[other], 3 * assumed[other])


def test_the_exit_code_tells_of_failures(job, monkeypatch, capsys):
    options = {"datasets": ("mnist",), "methods": ("vae",), "out": job.runs, "results": job.results}

    def ended(name: str):
        return lambda job, wanted, workers: {cell: queue.State(name, reason="It broke.") for cell in wanted}

    monkeypatch.setattr(command, "run", ended("done"))
    assert command.main(command.Table1(**options)) == 0
    monkeypatch.setattr(command, "run", ended("failed"))
    assert command.main(command.Table1(**options)) == 1
    assert "failed: mnist-gaussian-10/vae: It broke." in capsys.readouterr().out


def test_what_breaks_while_a_worker_stops_is_not_a_failure(job, monkeypatch):
    def broken(job: work.Job, cell: Cell) -> None:
        raise RuntimeError("The event loop was stopped.")

    monkeypatch.setattr(queue, "do", broken)
    cell = named(job, "start")
    answers = iter([True, False, False])  # asked before the cell, after it broke, and before the next
    queue.work(job, [cell], 0.0, lambda: next(answers))
    assert queue.state(job, cell, 0.0).name == "waiting"
    queue.work(job, [cell], 0.0)
    assert queue.state(job, cell, 0.0).reason == "RuntimeError: The event loop was stopped."


def test_a_killed_worker_has_failed_at_its_cell(job):
    cell, other = named(job, "vae"), named(job, "gpvae")
    dead = types.SimpleNamespace(pid=17, exitcode=-9)
    for each, pid in ((cell, 17), (other, 18)):
        queue.lock_of(job, each).parent.mkdir(parents=True, exist_ok=True)
        queue.lock_of(job, each).write_text(str(pid))
    assert command._bury(job, [cell, other], dead)
    assert "exit code -9" in queue.state(job, cell, 0.0).reason
    assert not queue.lock_of(job, cell).exists()
    assert locks.holder(queue.lock_of(job, other)) == 18
    assert not command._bury(job, [other], dead)


@pytest.mark.parametrize("row", cells.ROWS, ids=[row.title for row in cells.ROWS])
def test_every_row_can_be_built_with_each_of_its_settings(job, row):
    """Those that a family chooses from with its first row; with both likelihoods the first of them."""
    digits, (first, *rest) = data.load("digits"), cells.candidates(row.family)
    leads = row is next(other for other in cells.ROWS if other.family == row.family)
    built = [(likelihood, first) for likelihood in cells.LIKELIHOODS] + [("gaussian", end) for end in rest if leads]
    for likelihood, end in built:
        cell = named(job, row.title)._replace(likelihood=likelihood)
        wanted = work.settings(job, cell, digits, f"{row.label}:{end}", epochs=3)
        assert (wanted.train.start_from is None) == row.own_shapes
        assert wanted.train.epochs == 3 + 2 * row.own_shapes
        assert build.build(wanted, digits).config.method == row.label.split(":")[0]
