"""The benchmarks' machinery: stages, races, result files, tables, goals, figures and the guard against regressions."""

import json
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from benchmarks import annealing, curvature, deployment, goals, harness, latency, plots, records, regressions, tables
from benchmarks.records import Line, Results
from gpvae_jax.evaluate.latency import interleave

HERE = {"machine": {"processor": "a", "device": "cpu"}, "versions": {}, "commit": None}


def line(median: float, *, row: str = "vae", unit: str = "ms", noise: float = 0.01, **settings) -> Line:
    return Line("latency", row, settings, unit, median, median * (1 - noise), median * (1 + noise), 10, {})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """References that take no time."""
    monkeypatch.setattr(harness, "MATRIX", {"cpu": 8})
    monkeypatch.setattr(harness, "VECTOR", 8)


def test_a_race_times_every_row_and_holds_it_against_the_machine(small: None) -> None:
    x = jnp.ones((8, 8))
    entered = {
        "one": harness.program(lambda p, x: p["w"] @ x, {"w": x}, x),
        "peer": harness.Competitor(lambda: None),
    }
    found = harness.race(entered, harness.Settings(seconds=0.01))
    assert list(found) == ["one", "peer", "floor", "matrix product", "vector sum"]
    one = found["one"].details
    assert one["operations"] == 2 * 8**3
    assert one["leaves"] == 1
    assert one["trace_ms"] > 0
    assert one["lower_ms"] > 0
    assert one["compile_ms"] > 0
    assert found["matrix product"].details["of_matmul"] == pytest.approx(1)
    (written,) = harness.throughput_lines("b", {}, found, {"one": 16})
    assert written.median == pytest.approx(16e3 / found["one"].time.median)
    assert written.low <= written.median <= written.high


def test_short_calls_are_repeated_within_a_reading() -> None:
    calls = []
    found = interleave({"short": lambda: calls.append(1)}, seconds=0.005, warmup=2)
    assert len(calls) > 10 * found["short"].repeats
    with_clock = interleave(
        {"wait": lambda: time.sleep(0.02)}, seconds=0.05, warmup=1, clock=time.process_time, least=2
    )
    assert with_clock["wait"].median < 10  # sleeping is not computing


def test_an_unknown_clock_is_told() -> None:
    with pytest.raises(ValueError, match="Unknown clock 'cqu'; did you mean 'cpu'"):
        harness.clock_of(harness.Settings(clock="cqu"))


def test_every_method_is_raced_and_what_has_no_bfloat16_says_so(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = latency.Settings(
        rows=("vae", "vlae"), batches=(2,), architectures=("mlp",), dtypes=("bfloat16",), calls=("parameters",),
        seconds=0.01,
    )  # fmt: skip
    lines = {x.row: x for x in latency.run(settings)}
    assert lines["vae"].median > 0
    assert "bfloat16" in lines["vlae"].details["unsupported"]  # in the words of the JAX that is installed
    capsys.readouterr()
    tables.show(lines.values())
    shown = capsys.readouterr()
    assert "vae" in shown.out + shown.err


def test_a_gauss_newton_step_costs_a_tangent_a_latent(small: None) -> None:
    rows = (curvature.ROWS[0], curvature.ROWS[1], f"{curvature.EXACT}:covariance=base")
    settings = curvature.Settings(rows=rows, latents=(2, 6), seconds=0.01)
    costs = {(x.settings["latents"], x.row): x.details["products"] for x in curvature.run(settings)}
    vae, gradient, exact = rows
    assert costs[2, exact] - costs[2, vae] < costs[6, exact] - costs[6, vae]
    assert (costs[6, exact] - costs[6, vae]) / (costs[2, exact] - costs[2, vae]) == pytest.approx(3, rel=0.4)
    assert costs[6, gradient] - costs[6, vae] == pytest.approx(costs[2, gradient] - costs[2, vae], rel=0.05)


def test_annealing_is_held_against_its_decoder_passes(small: None) -> None:
    lines = {x.row: x for x in annealing.run(annealing.Settings(temperatures=2, images=2, leapfrog=2, seconds=0.01))}
    whole, passes = lines["annealing"], lines["its decoder passes"]
    assert whole.details["full_s"] == pytest.approx(whole.median * 1e-3 * 1000 / 2)
    assert whole.details["share_outside_decoder"] == pytest.approx(1 - passes.median / whole.median)
    products = 2 * (20 * 400 + 400 * 400 + 400 * 784)
    assert passes.details["products"] == pytest.approx(16 * 2 * 2 * 2 * 2 * products)
    with pytest.raises(ValueError, match="temperatures must be from 1 to"):
        list(annealing.run(annealing.Settings(temperatures=0)))


def test_an_exported_program_races_its_function(small: None) -> None:
    lines = list(deployment.run(deployment.Settings(rows=("vae",), batches=(2,), seconds=0.01)))
    assert [line.row for line in lines[:2]] == ["jitted", "exported"]
    assert all(line.median > 0 for line in lines)


def test_results_are_read_as_written(tmp_path: Path) -> None:
    lines = [line(1.0, batch=1), harness.unsupported("latency", "svi", {}, "ms", "why")]
    records.write(tmp_path / "a.jsonl", lines)
    read = records.read(tmp_path)
    assert read.lines[0] == lines[0]
    assert read.lines[1].details == {"unsupported": "why"}
    record = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert {"benchmark", "row", "settings", "unit", "machine", "versions", "commit"} <= set(record)
    assert read.origins == [{name: record[name] for name in ("machine", "versions", "commit")}]


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "line 1, is not JSON"), ('{"row": 1}', "lacks benchmark"), ("[]", "lacks benchmark"), ("", "no result")],
)
def test_a_bad_file_is_told_in_one_sentence(
    tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    assert regressions.main(regressions.Regressions(path, path)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert regressions.main(regressions.Regressions(tmp_path / "none", path)) == 2


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (line(1.0), line(1.2), 1),
        (line(1.2), line(1.0), 0),
        (line(1.0), line(1.04), 0),  # beyond the noise, within the tolerance
        (line(1.0, noise=0.2), line(1.2, noise=0.2), 0),
        (line(100.0, unit="images/s"), line(80.0, unit="images/s"), 1),
        (line(100.0, unit="images/s"), line(120.0, unit="images/s"), 0),
        (line(1.0, row="matrix product"), line(2.0, row="matrix product"), 0),
    ],
)
def test_what_got_slower_beyond_noise_fails(tmp_path: Path, old: Line, new: Line, code: int) -> None:
    for name, one in (("old", old), ("new", new)):
        records.write(tmp_path / f"{name}.jsonl", [one])
    assert regressions.main(regressions.Regressions(tmp_path / "old.jsonl", tmp_path / "new.jsonl")) == code


def test_only_like_is_compared() -> None:
    old = Results([line(1.0, batch=1)], [HERE])
    with pytest.raises(ValueError, match="no row in common"):
        regressions.moves(old, Results([line(1.0, batch=2)], [HERE]), 0.05)
    elsewhere = HERE | {"machine": {"processor": "b", "device": "cpu"}}
    with pytest.raises(ValueError, match="one machine only"):
        regressions.moves(old, Results([line(1.0, batch=1)], [elsewhere]), 0.05)


def test_goals_are_ratios_of_lines() -> None:
    at = {"architecture": "mlp", "batch": 128, "dtype": "float32", "call": "sample"}
    lines = [
        line(2.0, **at)._replace(details={"operations": 10.0}),
        line(10.0, row="recmix:num_components=5", **at)._replace(details={"operations": 45.0}),
        line(2.4, row="gpvae", **at),
    ]
    found = {goal.what: goals.met(goal, lines) for goal in goals.GOALS}
    assert found["GPVAE over the VAE: q(z|x), a sample, its density; mlp, batch 128"] == (pytest.approx(1.2), False)
    value, good = found["RecMix of 5 components over the VAE, over its ratio of operations; mlp, batch 128"]
    assert value == pytest.approx(5 / 4.5)
    assert good is False
    assert found["gpvae --help"] == (None, None)
    assert goals.table(lines).row_count == len(goals.GOALS)


def test_figures_are_drawn_from_what_there_is(tmp_path: Path) -> None:
    at = {"architecture": "mlp", "dtype": "float32", "call": "sample"}
    lines = [line(batch / 10, row=row, batch=batch, **at) for row in ("vae", "iaf") for batch in (1, 128)]
    lines += [
        Line("scaling", f"M = {m}", {"axis": "M", "method": "recmix"}, "ms", m, m, m, 5, {"at": m, "expected": m})
        for m in (1, 2, 3)
    ]
    made = plots.draw(lines, tmp_path)
    assert [path.name for path in made] == ["latency_mlp.png", "throughput_mlp.png", "scaling_M.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)
    with pytest.raises(FileNotFoundError, match="no evaluated runs"):
        plots.tradeoff(tmp_path)
