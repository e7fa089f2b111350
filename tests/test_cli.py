"""The command line end to end in one process, and what it answers to mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import gpvae_jax
from gpvae_jax import cli, commands, compare, progress, runs, train
from gpvae_jax.commands import training
from gpvae_jax.evaluate import kept, slow
from gpvae_jax.methods import METHODS
from tests.cases import assert_close
from tests.test_config import GREY

SMALL = ["--hidden", "8", "--latent-dim", "2", "--batch-size", "8", "--epochs", "2"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))  # leave the user's own alone
    monkeypatch.delenv("GPVAE_JAX_DEBUG", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "own.npz"
    np.savez(path, train=GREY[:40], validation=GREY[40:50], test=GREY[50:])
    return str(path)


def gpvae(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(list(arguments))
    captured = capsys.readouterr()
    return status, re.sub(r"\s+", " ", captured.out), captured.err


def test_train_evaluate_sample_plot(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "console", progress.Console(width=200))
    folder = tmp_path / "run"
    status, out, _ = gpvae(capsys, "train", "--data", data, "--out", str(folder), *SMALL)
    assert status == 0
    assert "Best validation ELBO" in out
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2

    status, out, _ = gpvae(capsys, "train", "--out", str(folder), "--resume")
    assert (status, "Nothing left to train" in out) == (0, True)
    status, _, error = gpvae(capsys, "train", "--data", data, "--out", str(folder), *SMALL, "--resume")
    assert (status, error) == (0, "")
    status, _, error = gpvae(capsys, "train", "--out", str(folder), "--resume", "--epochs", "7")
    assert status == 1
    assert "holds a run with train.epochs = 2, but 7 was asked for" in re.sub(r"\s+", " ", error)

    status, out, _ = gpvae(capsys, "evaluate", str(folder), "--num-samples", "3", "5")
    assert (status, "iwae_5" in out, "10 test examples" in out) == (0, True, True)
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["iwae_5"]["mean"] > results["test"]["elbo"]["mean"]
    assert results["latency_ms"]["repeats"] >= 10

    assert gpvae(capsys, "sample", str(folder), "--count", "5")[0] == 0
    with np.load(folder / "samples.npz") as arrays:
        assert arrays["x"].shape == (5, 4, 4, 1)
        assert set(np.unique(arrays["x"])) <= {0.0, 1.0}
    assert gpvae(capsys, "plot", str(folder))[0] == 0
    for name in ("samples.png", "learning_curve.png", "reconstructions.png", "prior_samples.png", "posteriors.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_compare_trains_once_and_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str) -> None:
    out = tmp_path / "compare"
    arguments = ["compare", "--data", data, "--out", str(out), "--methods", "vae", "vae:num_samples=2"]
    arguments += ["--num-samples", "2", "4", *SMALL]
    status, printed, _ = gpvae(capsys, *arguments)
    assert (status, "report.html" in printed) == (0, True)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "vae:num_samples=2" in (out / "table.md").read_text()
    before = (out / "vae" / "metrics.jsonl").stat().st_mtime_ns
    assert gpvae(capsys, *arguments)[0] == 0
    assert (out / "vae" / "metrics.jsonl").stat().st_mtime_ns == before

    status, _, error = gpvae(capsys, *arguments, "--learning-rate", "0.5")
    assert status == 1
    assert "train.learning_rate = 0.001, but 0.5 was asked for" in error


def test_what_cannot_be_drawn_is_left_out_and_the_rest_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, first, out = tmp_path / "two.npz", tmp_path / "first", tmp_path / "compare"
    np.savez(path, train=np.concatenate([GREY, GREY[::-1]], axis=-1))  # of two channels
    assert gpvae(capsys, "train", "--data", str(path), "--out", str(first), *SMALL)[0] == 0
    assert gpvae(capsys, "sample", str(first))[0] == 0
    assert gpvae(capsys, "plot", str(first))[0] == 0
    assert {file.name for file in first.glob("*.png")} == {"learning_curve.png"}
    assert (first / "samples.npz").is_file()
    untrained = [*SMALL[:-2], "--epochs", "0", "--start-from", str(first), "--num-samples", "2"]
    methods = ["--methods", "vae", "savi"]
    assert gpvae(capsys, "compare", "--data", str(path), "--out", str(out), *untrained, *methods)[0] == 0
    assert (out / "report.html").read_text().count("data:image/png;base64,") == 1  # likelihood against time
    status, _, error = gpvae(capsys, "plot", str(out / "savi"))
    assert (status, "so there is nothing to draw" in error) == (1, True)


def test_every_row_of_a_comparison_is_checked_before_the_first_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str
) -> None:
    ask = ["compare", "--data", data, "--out", str(tmp_path / "compare"), *SMALL]
    doubly = ["--iwae-samples", "2", "--doubly-reparameterized"]
    for more, words in (
        ([*doubly, "--methods", "vae", "recmix"], "doubly"),
        (["--methods", "vae", "iaf:train.start_from=nowhere"], "nowhere is not a run folder"),
        (["--methods", "vae", "newton:base=iaf"], "iaf"),
    ):
        status, _, error = gpvae(capsys, *ask, *more)
        assert (status, words in error.lower()) == (1, True), error
        assert not (tmp_path / "compare").exists()


def test_a_half_trained_row_that_was_evaluated_is_trained_to_its_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str
) -> None:
    ask = ["compare", "--data", data, "--out", str(tmp_path), "--num-samples", "2", *SMALL, "--methods", "vae"]
    assert gpvae(capsys, *ask)[0] == 0
    run = runs.open_run(tmp_path / "vae")
    shutil.rmtree(run.folder / "best")
    shutil.rmtree(run.folder / "last")
    for _ in runs.records(run):
        break  # as by ctrl-c after the first epoch
    assert not runs.ended(run)
    assert gpvae(capsys, "evaluate", str(run.folder), "--num-samples", "2")[0] == 0
    assert gpvae(capsys, *ask)[0] == 0
    assert runs.ended(run)
    assert len(runs.history(run.folder)) == 2


def test_text_in_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("Highest bound: [big], in [/x]")
    assert capsys.readouterr().out == "Highest bound: [big], in [/x]\n"


def test_labels_set_the_runs_settings_and_the_test_set_can_be_cut(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str
) -> None:
    methods = ["vae", "wide=vae:model.capacity=iaf,width=64", "iaf:width=64:train.start_from=vae"]
    out, settings = tmp_path / "compare", tmp_path / "settings.json"
    settings.write_text(json.dumps({"methods": methods, "train": {"batch_size": 8, "epochs": 2}}))
    arguments = ["compare", "--data", data, "--out", str(out), "--num-samples", "2", "--max-examples", "7"]
    assert gpvae(capsys, *arguments, "--config", str(settings), *SMALL[:4])[0] == 0
    titles = ["vae", "wide", "iaf:width=64:train.start_from=vae"]
    results = [json.loads((out / compare.folder_name(title) / "results.json").read_text()) for title in titles]
    assert [r["num_examples"] for r in results] == [7, 7, 7]
    small, wide, rival = (r["num_params"]["inference"] for r in results)
    assert small < wide
    assert abs(wide - rival) < 0.1 * rival
    assert len({r["num_params"]["model"] for r in results}) == 1
    recorded = json.loads((out / compare.folder_name(titles[2]) / "config.json").read_text())
    assert recorded["config"]["train"]["start_from"] == str(out / "vae")
    best = runs.history(out / "vae")[-1]["best_epoch"]
    assert recorded["epochs_before"] == best
    assert f"/2 (+{best}) |" in (out / "table.md").read_text().splitlines()[-3]


def test_a_run_starts_from_another(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str) -> None:
    base = ["train", "--data", data, *SMALL]
    first, second = tmp_path / "first", tmp_path / "second"
    assert gpvae(capsys, *base, "--num-seeds", "2", "--out", str(first))[0] == 0
    warm = [*base, "--method", "gpvae", "--learning-rate", "1e-9", "--start-from", str(first)]
    assert gpvae(capsys, *warm, "--num-seeds", "2", "--out", str(second))[0] == 0
    trained, started = (runs.best_params(runs.open_run(folder)) for folder in (first, second))
    assert_close(started.model, trained.model, 1e-6)
    assert_close(started.inference["base"], trained.inference, 1e-6)
    status, _, error = gpvae(capsys, *warm, "--out", str(tmp_path / "third"))
    assert (status, "use --num-seeds 2" in error) == (1, True)
    status, _, error = gpvae(capsys, *warm, "--num-seeds", "2", "--hidden", "9", "--out", str(tmp_path / "third"))
    assert (status, "['layer_0']['bias'] is (9,) here and (8,) in the trained run" in error) == (1, True)
    assert not (tmp_path / "third").exists()  # what cannot start leaves nothing


def test_config_file_supplies_defaults_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"method": "vae", "train": {"epochs": 7, "seed": 3}}))
    command = cli.parse(["train", "--config", str(path), "--seed", "5"])
    assert (command.run.train.epochs, command.run.train.seed) == (7, 5)
    assert cli.parse(["train", f"--config={path}"]).run.train.seed == 3


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpvae(capsys, "--version")[:2] == (0, f"gpvae {gpvae_jax.__version__} ")


def test_list_names_every_method_and_its_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = gpvae(capsys, "list")
    assert status == 0
    for name in (*METHODS, "digits", "celeb_a", "bernoulli", "dynamic", "conv", "analytic_kl=True"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], "Unknown command 'trian'; did you mean 'train'?"),
        (["train", "--method", "veo"], "Unknown method 'veo'; did you mean 'vae'?"),
        (["train", "--data", "mnits"], "did you mean 'mnist'?"),
        (["train", "--data", "nowhere.npz"], "nowhere.npz"),
        (["train", "--config", "nowhere.json"], "no configuration file nowhere.json"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["sample", "nowhere"], "nowhere is not a run folder"),
        (["export", "nowhere"], "nowhere is not a run folder"),
        (["train", "--learning-rate", "-1"], "learning_rate must be above 0, got -1.0"),
        (["compare", "--methods", "vae", "vae=iaf"], "named once, but 'vae' comes twice"),
        (["compare", "--methods", "=vae"], "A row's title names its folder, but '=vae' has none"),
        (["compare", "--methods", "..=vae"], "A row's title names its folder"),
        (["compare", "--methods", "vae:train.epoch=3"], "did you mean 'train.epochs'?"),
        (["compare", "--methods", "vae:training.epochs=3"], "did you mean 'train'?"),
        (["compare", "--methods", "vae", "d=vae:data.name=mnist"], "'d' asks for data.name=mnist where the others"),
        (["compare", "--methods", "vae", "g=vae:model.likelihood=gaussian"], "share their data and likelihood"),
        (["train", "--clip-norm", "inf"], "clip_norm must be finite and above 0, got inf"),
        (["compare", "--methods", "vae:train.epochs=many"], "must be int, got 'many'"),
        (["train", "--capacity", "iff"], "Unknown method 'iff'; did you mean 'iaf'?"),
        (["train", "--start-from", "nowhere"], "nowhere is not a run folder"),
        (["train", "--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
        (["train", "--binarization-seed", "-1"], "binarization_seed must be from 0 to 4294967295, got -1"),
        (["compare", "--methods", "vae", "--num-samples", "0"], "--num-samples must be at least 1, got 0"),
        (["compare", "--methods", "vae", "--max-examples", "0"], "--max-examples must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = gpvae(capsys, *arguments)
    assert status == 1
    assert sentence in error
    assert error.startswith("gpvae: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.json*"))  # nothing was written


def test_a_folder_that_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        status, _, error = gpvae(capsys, "train", "--data", data, "--out", str(out), *SMALL)
        assert (status, error.count("\n"), str(out) in error, "Errno" in error) == (1, 1, True, False)


def test_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["train", "--epoch", "3"])
    assert exit_info.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_help_needs_no_jax() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from gpvae_jax.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "    main(['--help']); main(['train', '--help'])\n"
        "assert '--latent-dim' in out.getvalue() and 'gpvae compare' in out.getvalue()\n"
        "assert not {'jax', 'flax', 'matplotlib', 'sklearn', 'tensorflow_datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_that_has_gone_is_no_mistake() -> None:
    """As in `gpvae list | head`: quiet, with the status of a process that such a pipe has stopped."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gpvae_jax", "--help"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", lambda command: {}["a bug"])
    with pytest.raises(KeyError):
        cli.main(["list"])


def test_tensorboard_needs_its_extra(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    status, _, error = gpvae(capsys, "train", "--data", data, "--out", str(tmp_path / "run"), "--tensorboard", *SMALL)
    assert status == 1
    assert "pip install 'gpvae-jax[tensorboard]'" in error
    assert not (tmp_path / "run").exists()


def test_tensorboard_writes_each_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, made = [], []

    class Writer:
        def __init__(self, folder: str) -> None:
            made.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

    monkeypatch.setitem(sys.modules, "tensorboardX", type("module", (), {"SummaryWriter": Writer}))
    write = training._tensorboard(tmp_path)
    assert not made
    record = train.Record(3, {"elbo": np.array([1.0, 2.0]), "kl": 0.5}, 0.1, None)
    write(record)
    assert made == [str(tmp_path / "tensorboard")]
    assert written == [("elbo/0", 1.0, 3), ("elbo/1", 2.0, 3), ("kl", 0.5, 3)]


def test_a_method_takes_over_what_another_has_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str
) -> None:
    out = tmp_path / "compare"
    methods = ["vae", "savi", "more=savi:steps=3:train.start_from=savi:train.epochs=0"]
    arguments = ["compare", "--data", data, "--out", str(out), "--num-samples", "2", *SMALL, "--methods", *methods]
    for _ in range(2):  # the second time there is nothing left to do
        assert gpvae(capsys, *arguments)[0] == 0
        trained, taken = (runs.best_params(runs.open_run(out / name)) for name in ("savi", "more"))
        assert_close(taken, trained, 0.0)
    assert "significan" in (out / "table.md").read_text()
    assert (out / "table.tex").read_text().count(r" \\") == 4


def test_slow_estimators_go_on_where_they_stopped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "BATCH", 3)
    monkeypatch.setattr(kept, "SECONDS", 0.0)
    monkeypatch.setattr(slow, "best_own", partial(slow.best_own, steps=200))  # what it finds is not judged here
    folder = tmp_path / "run"
    assert gpvae(capsys, "train", "--data", data, "--out", str(folder), "--method", "gpvae", *SMALL)[0] == 0
    ask = ["evaluate", str(folder), "--num-samples", "50", "--slow-examples", "5", "--temperatures", "10"]
    status, out, _ = gpvae(capsys, *ask, "--chains", "2", "--estimators", "iwae", "ais", "gaps", "uncertainty")
    assert status == 0
    for words in ("AIS", "5 examples", "amortization gap", "gp_total", "reconstruction_error"):
        assert words in out
    results = json.loads((folder / "results.json").read_text())
    assert results["ais"]["acceptance"]["mean"] > 0.3
    diagonal = results["gaps"]["diagonal"]
    total = diagonal["approximation"]["mean"] + diagonal["amortization"]["mean"]
    assert diagonal["inference"]["mean"] == pytest.approx(total, abs=1e-4)
    assert diagonal["amortization"]["mean"] > 0  # two epochs do not make an encoder
    score = results["uncertainty"]["spearman_with_amortization_gap"][0]["gp_total"]
    assert -1 <= score["low"] <= score["value"] <= score["high"] <= 1

    # a run that was killed after its first batch gives the same in the end
    with np.load(folder / "ais.npz") as stored:
        whole = {name: stored[name] for name in stored.files}
    first = {name: value for name, value in whole.items() if name == "settings" or name.startswith("0/0/")}
    np.savez(folder / "ais.npz", **first)
    assert gpvae(capsys, *ask, "--chains", "2", "--estimators", "ais")[0] == 0
    with np.load(folder / "ais.npz") as stored:
        assert whole.keys() == set(stored.files)
        for name in stored.files:
            np.testing.assert_array_equal(stored[name], whole[name])
    again = json.loads((folder / "results.json").read_text())
    assert again["ais"] == results["ais"]
    assert again["gaps"] == results["gaps"]

    # and one that was killed in the middle of its second batch
    states: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(kept.Half, "save", lambda half, state: states.append(state | {"settings": half.settings}))
    np.savez(folder / "ais.npz", **first)
    assert gpvae(capsys, *ask, "--chains", "2", "--estimators", "ais")[0] == 0
    np.savez(folder / "ais.npz", **first)
    np.savez(folder / "ais-unfinished.npz", **states[-1])
    assert gpvae(capsys, *ask, "--chains", "2", "--estimators", "ais")[0] == 0
    assert len(states) == 3  # it had 25 + 10 transitions of the pilot and 10 of the run: two calls and one, and no more
    assert not (folder / "ais-unfinished.npz").exists()
    with np.load(folder / "ais.npz") as stored:
        for name in stored.files:
            np.testing.assert_array_equal(stored[name], whole[name])

    status, _, error = gpvae(capsys, "evaluate", str(folder), "--estimators", "iwea")
    assert (status, "did you mean 'iwae'" in error) == (1, True)


def test_both_splits_and_the_bracket(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "best_own", partial(slow.best_own, steps=200))  # what it finds is not judged here
    folder = tmp_path / "run"
    method = ["--method", "iaf", "--settings", "width=8"]
    assert gpvae(capsys, "train", "--data", data, "--out", str(folder), *method, *SMALL)[0] == 0
    small = ["--num-samples", "50", "--slow-examples", "6", "--temperatures", "10", "--chains", "2"]
    ask = ["evaluate", str(folder), *small, "--max-examples", "6"]
    assert gpvae(capsys, *ask, "--estimators", "iwae", "gaps", "bdmc", "--schedule", "linear")[0] == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["bdmc"]["width"]["mean"] == pytest.approx(
        results["bdmc"]["upper"]["mean"] - results["bdmc"]["lower"]["mean"]
    )
    assert set(results["gaps"]) > {"diagonal", "full", "own"}
    assert (folder / "gaps.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = gpvae(capsys, *ask, "--split", "train", "--estimators", "iwae", "gaps", "--memory", "1MiB")
    assert (status, "train less test" in out, "diagonal inference" in out) == (0, True, True)
    other = ["--split", "train", "--estimators", "gaps", "--seed", "1"]
    status, _, error = gpvae(capsys, *ask, *other)
    assert (status, error.count("\n")) == (1, 1)
    assert "binarisation of seed 0, and --seed is 1" in error
    # another estimator's evidence is not subtracted: only what does not depend on it is left
    ask[ask.index("50")] = "60"
    status, out, _ = gpvae(capsys, *ask, "--split", "train", "--estimators", "iwae", "gaps")
    less = out.split("train less test")[1]
    assert (status, "diagonal amortization" in less, "inference" in less, "evidence" in less) == (0, True, False, False)
    assert json.loads((folder / "train.json").read_text())["train"]["elbo"]["mean"] < 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--num-samples", "0"], "--num-samples must be at least 1, got 0"),
        (["--max-examples", "0"], "at least 1 example, got 0"),
        (["--estimators", "ais", "--temperatures", "0"], "--temperatures must be at least 1, got 0"),
        (["--estimators", "bdmc", "--chains", "0"], "--chains must be at least 1, got 0"),
        (["--estimators", "gaps", "--slow-examples", "0"], "--slow-examples must be at least 1, got 0"),
        (["--estimators", "ais", "--schedule", "sigmoidal"], "did you mean 'sigmoid'?"),
        (["--memory", "64"], "written as 512KiB, 64MiB or 2GiB, got '64'"),
        (["--memory", "0.1KiB"], "too small"),
        (["--estimators", "uncertainty", "--split", "train"], "does not know the split 'train'"),
        (["--estimators", "uncertainty", "--slow-examples", "2"], "correlates at least 3 examples"),
        (["--seed", "4294967296"], "--seed must be from 0 to 4294967295, got 4294967296"),
    ],
)
def test_degenerate_evaluations_are_one_sentence(
    capsys: pytest.CaptureFixture[str], untrained: Path, options: list[str], sentence: str
) -> None:
    before = sorted(untrained.rglob("*"))
    status, _, error = gpvae(capsys, "evaluate", str(untrained), *options)
    assert status == 1
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(untrained.rglob("*")) == before  # nothing was written


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "vae"
    path = folder.parent / "own.npz"
    np.savez(path, train=GREY[:40], validation=GREY[40:50], test=GREY[50:])
    assert cli.main(["train", "--data", str(path), "--out", str(folder), *SMALL[:-1], "1"]) == 0
    return folder


def test_one_example_has_no_error_and_is_shown_all_the_same(
    capsys: pytest.CaptureFixture[str], untrained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(untrained, tmp_path / "run")
    one = ["evaluate", str(folder), "--max-examples", "1", "--num-samples", "4"]
    assert gpvae(capsys, *one)[0] == 0
    assert json.loads((folder / "results.json").read_text())["test"]["elbo"]["stderr"] is None
    again = ["evaluate", str(folder), "--estimators", "ais", "--temperatures", "2", "--chains", "2"]
    status, out, _ = gpvae(capsys, *again)
    assert (status, "± nan" in out) == (0, True)


def test_a_run_without_test_examples_says_so(
    capsys: pytest.CaptureFixture[str], untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run = runs.open_run

    def without(folder: Path) -> runs.Run:
        run = open_run(folder)
        return run._replace(setup=run.setup._replace(dataset=run.setup.dataset._replace(test=GREY[:0])))

    monkeypatch.setattr(runs, "open_run", without)
    status, _, error = gpvae(capsys, "evaluate", str(untrained))
    assert (status, "has no test examples" in error) == (1, True)


def test_settings_are_chosen_on_the_validation_split(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: str
) -> None:
    folder = tmp_path / "run"
    assert gpvae(capsys, "train", "--data", data, "--out", str(folder), *SMALL)[0] == 0
    status, out, _ = gpvae(capsys, "evaluate", str(folder), "--split", "validation", "--num-samples", "2")
    assert (status, "validation examples" in out) == (0, True)
    assert "validation" in json.loads((folder / "validation.json").read_text())
    assert not (folder / "test.npz").exists()
    for wrong in (["--split", "tset"], ["--split", "validation", "--estimators", "ais"]):
        status, _, error = gpvae(capsys, "evaluate", str(folder), *wrong)
        assert status == 1
        assert "split" in error
