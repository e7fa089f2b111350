"""Run folders: exact resumption, several seeds, divergence, and what is written down."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from gpvae_jax import checkpoint, runs
from gpvae_jax.build import build
from gpvae_jax.compare import rows, same_settings
from gpvae_jax.data import from_arrays
from gpvae_jax.evaluate.run import SPLITS, evaluate_run, kept_results, params_by_seed, split_examples
from gpvae_jax.evaluate.slow import optimal_bounds
from gpvae_jax.files import plain, write_json
from gpvae_jax.train import DivergenceError
from tests.test_config import DATA, small


def train(folder: Path, *, stop_after: int | None = None, resume: bool = False, **changes: object) -> runs.Run:
    """Train a small run, killing it after `stop_after` epochs as an interruption would: the generator is closed."""
    settings = small(**changes)
    run = runs.open_run(folder, DATA) if resume else runs.create(folder, settings, DATA)
    for record in runs.records(run, resume=resume):  # saves when it ends or is closed
        if record.epoch == stop_after:
            break
    return run


def test_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    # with everything on that carries state: moving average, schedule, warm-up, β warm-up
    options = {"epochs": 10, "ema_decay": 0.9, "schedule": "cosine", "warmup_epochs": 1, "beta_warmup_epochs": 5}
    whole = train(tmp_path / "whole", train={"batch_size": 8, **options})
    train(tmp_path / "parts", stop_after=4, train={"batch_size": 8, **options})
    assert len(runs.history(tmp_path / "parts")) == 4
    parts = train(tmp_path / "parts", resume=True)
    like = runs._abstract_state(whole)
    states = [checkpoint.restore(run.folder / "last", like)[1] for run in (whole, parts)]
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.array_equal(*(jax.random.key_data(a) if a.dtype == like.key.dtype else a for a in (one, other)))
    logs = [runs.history(run.folder) for run in (whole, parts)]
    assert [row | {"seconds": 0} for row in logs[0]] == [row | {"seconds": 0} for row in logs[1]]


def test_epochs_after_the_last_checkpoint_are_trained_again(tmp_path: Path) -> None:
    train(tmp_path, stop_after=2, train={"epochs": 5, "batch_size": 8})
    with (tmp_path / "metrics.jsonl").open("a") as file:  # an epoch that was logged, then a torn line
        file.write('{"epoch": 3, "elbo": 0}\n{"epo')
    train(tmp_path, resume=True)
    assert [row["epoch"] for row in runs.history(tmp_path)] == [1, 2, 3, 4, 5]
    assert runs.history(tmp_path)[2]["elbo"] != 0


def test_an_interrupt_within_an_epoch_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch) -> None:
    def interrupted(tree: object) -> object:
        if (tmp_path / "last").is_dir():
            raise KeyboardInterrupt  # as by ctrl-c: the state's buffers are with the second epoch by now
        return tree

    run = runs.create(tmp_path, small(train={"epochs": 5, "batch_size": 8}), DATA)
    with monkeypatch.context() as patched:
        patched.setattr(jax, "device_get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(runs.records(run, save_every=0.0))
    assert len(runs.history(tmp_path)) == 1
    list(runs.records(run, resume=True))
    assert [row["epoch"] for row in runs.history(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_first_checkpoint_that_was_cut_off_is_none(tmp_path: Path) -> None:
    run = runs.create(tmp_path, small(train={"epochs": 2, "batch_size": 8}), DATA)
    (tmp_path / "last" / "1.orbax-checkpoint-tmp").mkdir(parents=True)
    list(runs.records(run, resume=True))
    assert [row["epoch"] for row in runs.history(tmp_path)] == [1, 2]


def test_several_seeds_train_stop_and_evaluate_each(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 4, "batch_size": 8, "num_seeds": 3})
    assert np.shape(runs.history(tmp_path)[-1]["validation_elbo"]) == (3,)
    each = params_by_seed(run)
    assert len(each) == 3
    results = evaluate_run(run, num_samples=(3, 7))
    with np.load(tmp_path / "test.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == dict.fromkeys(
            ("iwae_3", "iwae_7", "elbo", "standard_error", "ess", "pareto_k"), (3, 10)
        )
        assert results["test"]["elbo"]["mean"] == pytest.approx(arrays["elbo"].mean())
        seeds = arrays["elbo"].mean(axis=1)
        assert results["test"]["elbo"]["stderr_over_seeds"] == pytest.approx(seeds.std(ddof=1) / 3**0.5)
    assert results["num_seeds"] == 3
    assert rows({"three seeds": run})[0].elbo.mean == pytest.approx(results["test"]["elbo"]["mean"])


def test_folder_says_everything_about_the_run(tmp_path: Path) -> None:
    train(tmp_path, train={"epochs": 1, "batch_size": 8})
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["data"]["checksum"] == DATA.checksum
    assert record["data"]["split"]["counts"] == {"train": 40, "validation": 10, "test": 10}
    assert record["config"]["data"]["binarization"] == "dynamic"  # spelled out, though it was left to default
    assert record["environment"]["packages"]["jax"] == jax.__version__
    assert record["environment"]["backend"] == jax.default_backend()
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.part"))


def test_diverging_run_keeps_its_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"not finite at step .* Lower the learning rate"):
        train(tmp_path, train={"epochs": 50, "batch_size": 8, "optimizer": "sgd", "learning_rate": 1e6})
    _last_is_finite(tmp_path)


def test_a_run_that_diverged_is_not_taken_for_trained(tmp_path: Path) -> None:
    settings = {"epochs": 50, "batch_size": 8, "optimizer": "sgd", "learning_rate": 1e6}
    with pytest.raises(DivergenceError):
        train(tmp_path, train=settings)
    with pytest.raises(DivergenceError, match=r"not finite at step \d+ \(epoch 1\); the state before"):
        train(tmp_path, resume=True, train=settings)
    with pytest.raises(runs.UntrainedError, match=r"Seed 0 of .* has no trained parameters: its loss was not finite"):
        evaluate_run(runs.open_run(tmp_path, DATA), num_samples=(2,))


def test_one_seed_without_trained_parameters_is_named(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 2, "batch_size": 8, "num_seeds": 3})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["best_epoch"][1] = 0  # as of a seed that failed at once
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(runs.UntrainedError, match="Seed 1 of"):
        runs.best_params(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "vae", "train": {"num_seeds": 2}},
        {"method": "gpvae", "train": {"examples": "held_out"}, "settings": ("weight_posterior=full",)},
        {"method": "vae", "model": {"capacity": "iaf,width=16"}, "data": {"train_examples": 24}},
        {"method": "vae", "model": {"likelihood": "discretized_logistic"}},
    ],
    ids=["seeds", "held out", "capacity", "levels"],
)
def test_a_trained_run_is_used_without_its_data(tmp_path: Path, changes: dict) -> None:
    changes["train"] = {"epochs": 1, "batch_size": 4} | changes.get("train", {})
    run = train(tmp_path, **changes)
    trained = runs.open_trained(str(tmp_path))
    chex.assert_trees_all_equal(list(trained.params), params_by_seed(run))
    x, key = run.setup.observation.evaluate(DATA.test), jax.random.key(0)
    for params in trained.params:
        ours, theirs = (method.loss(params, key, x)[0] for method in (trained.method, run.setup.method))
        assert ours == theirs  # the whole method, the size of the training set in its loss included
    assert trained.levels == DATA.levels
    raw = jax.numpy.asarray(DATA.train)
    prepared, expected = trained.prepare(key, raw), run.setup.observation.prepare(key, raw)
    np.testing.assert_array_equal(prepared, expected)


def test_a_kill_between_the_two_checkpoints_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"epochs": 4, "batch_size": 8}
    whole = train(tmp_path / "whole", train=training)
    save, saved = checkpoint.save, []

    def killed(folder: Path, step: int, tree: object) -> None:
        if len(saved) == 3:  # the second state's first checkpoint is written, its second is not
            raise KeyboardInterrupt
        saved.append(folder)
        save(folder, step, tree)

    settings = small(train=training)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            list(runs.records(runs.create(tmp_path / "cut", settings, DATA), save_every=0.0))
    cut = train(tmp_path / "cut", resume=True)
    chex.assert_trees_all_equal(runs.best_params(cut), runs.best_params(whole))


def test_data_in_memory_serve_a_start_from_another_run_as_well(tmp_path: Path) -> None:
    train(tmp_path / "a", train={"epochs": 1, "batch_size": 8})
    start = str(tmp_path / "a")
    for binarization in ("dynamic", "static"):  # whose own draws are made from the data as they were given
        settings = {
            "train": {"epochs": 1, "batch_size": 8, "start_from": start},
            "data": {"binarization": binarization},
        }
        train(tmp_path / binarization, **settings)
        assert runs.epochs_before(tmp_path / binarization) == 1


def test_divergence_after_good_epochs_is_told_as_such(tmp_path: Path) -> None:
    """With a state not yet saved: the one before the epoch that failed has given its buffers away."""
    late = {"epochs": 1000, "batch_size": 8, "optimizer": "sgd", "learning_rate": 100.0, "warmup_epochs": 1000}
    with pytest.raises(DivergenceError, match="not finite at step"):
        train(tmp_path, train=late)
    assert runs.history(tmp_path)
    _last_is_finite(tmp_path)


def _last_is_finite(folder: Path) -> None:
    run = runs.open_run(folder, DATA)
    chex.assert_tree_all_finite(checkpoint.restore(folder / "last", runs._abstract_state(run))[1].params)


def test_existing_folders_are_not_overwritten(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 1, "batch_size": 8})
    with pytest.raises(FileExistsError, match="already holds a run"):
        runs.create(tmp_path, small(), DATA)
    other = dataclasses.replace(run.setup.config, method="other")
    with pytest.raises(ValueError, match="holds a run with method = 'vae', but 'other' was asked for"):
        same_settings(run, other)


def test_trained_parameters_are_not_overwritten(tmp_path: Path) -> None:
    run = train(tmp_path)
    with pytest.raises(FileExistsError, match="already holds trained parameters; continue with resume"):
        next(runs.records(run))


def test_bad_settings_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'vae'"):
        runs.create(tmp_path / "run", small(method="vea"), DATA)
    with pytest.raises(ValueError, match="--iwae-samples"):
        runs.create(tmp_path / "run", small(train={"batch_size": 8, "doubly_reparameterized": True}), DATA)
    with pytest.raises(ValueError, match="but this one's is a GaussianMixture"):  # in the loss alone
        runs.create(tmp_path / "run", small(method="savi", settings=("base=mixture",)), DATA)
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(tmp_path: Path) -> None:
    train(tmp_path, train={"epochs": 1, "batch_size": 8})
    changed = DATA.train.copy()
    changed[0] ^= 1
    with pytest.raises(ValueError, match=r"is not the one .* was trained on: its checksum"):
        runs.open_run(tmp_path, from_arrays(changed, DATA.validation, DATA.test, name="grey"))


def test_what_is_not_a_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it holds no config\.json"):
        runs.open_run(tmp_path, DATA)
    runs.create(tmp_path, small(), DATA)
    with pytest.raises(FileNotFoundError, match="train the run first"):
        runs.best_params(runs.open_run(tmp_path, DATA))
    with pytest.raises(FileNotFoundError, match="train the run first"):
        runs.history(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch"')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        runs.history(tmp_path)
    recorded = json.loads((tmp_path / "config.json").read_text())
    for name in ("checksum", "levels", "shape", "split"):
        about = {key: value for key, value in recorded["data"].items() if key != name}
        (tmp_path / "config.json").write_text(json.dumps(recorded | {"data": about}))
        with pytest.raises(ValueError, match="does not say which data"):
            runs.open_trained(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}}')
    with pytest.raises(ValueError, match="does not say which data"):
        runs.open_run(tmp_path, DATA)


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [np.float32(1.5), np.inf], "c": np.arange(2)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None], "c": [0, 1]}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder is a folder, and a file is to be written there"):
        write_json(tmp_path / "folder", {})

    def full(old: Path, new: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_json(tmp_path / "x.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_evaluation_counts_every_example_once_and_pairs_by_key(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 1, "batch_size": 8})
    done: list[int] = []
    results = evaluate_run(run, num_samples=(2,), max_examples=7, progress=done.append)
    assert results["num_examples"] == 7
    assert done[-1] == 7
    with np.load(tmp_path / "test.npz") as arrays:
        first = {name: arrays[name] for name in arrays.files}
    evaluate_run(run, num_samples=(2,), max_examples=7)
    with np.load(tmp_path / "test.npz") as arrays:
        chex.assert_trees_all_equal(first, {name: arrays[name] for name in arrays.files})


def test_what_was_kept_of_a_run_is_not_that_of_the_same_run_trained_on(tmp_path: Path) -> None:
    options = {"epochs": 20, "batch_size": 8}
    run = train(tmp_path, stop_after=1, train=options)
    results = evaluate_run(run, num_samples=(2,))
    assert kept_results(run, "validation") is None
    assert json.dumps(kept_results(run, "test")) == json.dumps(plain(results))
    first = optimal_bounds(run, max_examples=2, families=("diagonal",))["diagonal"]
    assert np.array_equal(optimal_bounds(run, max_examples=2, families=("diagonal",))["diagonal"], first)
    run = train(tmp_path, resume=True, train=options)
    assert kept_results(run, "test") is None
    assert np.all(optimal_bounds(run, max_examples=2, families=("diagonal",))["diagonal"] != first)


def test_examples_from_a_number_on_are_those_of_the_whole_split(tmp_path: Path) -> None:
    run = train(tmp_path, train={"epochs": 1, "batch_size": 8})
    for split in SPLITS:
        every = split_examples(run, split, None, 0)
        np.testing.assert_array_equal(split_examples(run, split, 2, 0, 3), every[3:5])
        np.testing.assert_array_equal(split_examples(run, split, None, 0, 3), every[3:])
        for first in (-1, len(every)):
            with pytest.raises(ValueError, match=f"numbered from 0 to {len(every) - 1}, got {first} as the first"):
                split_examples(run, split, 2, 0, first)
    every, some = (
        optimal_bounds(run, max_examples=count, first=first, families=("diagonal",))["diagonal"][0]
        for count, first in ((7, 0), (4, 3))
    )
    np.testing.assert_allclose(some, every[3:], atol=0.05)  # other noise; the examples differ by tenths
    assert not np.allclose(some, every[:4], atol=0.05)


def test_setup_is_the_same_from_folder_and_from_settings(tmp_path: Path) -> None:
    run = runs.create(tmp_path, small(), DATA)
    assert runs.open_run(tmp_path, DATA).setup.config == run.setup.config == build(small(), DATA).config
