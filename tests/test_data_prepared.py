"""Data sets prepared by tensorflow-datasets: read without TensorFlow, cached, and every way they can be broken.

The files are small stand-ins with the feature structure of the real data sets, written by tensorflow-datasets itself.
"""

import importlib.abc
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from gpvae_jax.data import DATASETS, load, prepared

tfds = pytest.importorskip("tensorflow_datasets")
RNG = np.random.default_rng(1)


def encode(image, kind, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def blank(feature):
    """An example with nothing in it, whatever the features of the real data set are."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: blank(value) for key, value in feature.items()}
    return "none" if isinstance(feature, tfds.features.Text) else np.zeros((), feature.np_dtype)


def write_stand_in(name, folder, parts):
    """Prepare encoded images {split: [bytes]} as if they were the data set `name`."""
    stock = tfds.builder(name, data_dir=folder)
    features = stock.info.features

    class StandIn(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = stock.version

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {part: self._generate_examples(images) for part, images in parts.items()}

        def _generate_examples(self, images):
            for index, image in enumerate(images):
                yield index, {**{key: blank(value) for key, value in features.items()}, "image": image}

    StandIn.name = name
    StandIn(data_dir=folder, file_format="array_record").download_and_prepare()


class NoTensorFlow(importlib.abc.MetaPathFinder):
    """Not just `sys.modules["tensorflow"] = None`: there, tensorflow-datasets would look for the name."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {fullname!r}")


def forbid_tensorflow(monkeypatch):
    """From here on TensorFlow cannot be imported, even where it is installed."""
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTensorFlow(), *sys.meta_path])


@pytest.fixture(scope="module", autouse=True)
def no_progress_bars():
    tfds.disable_progress_bar()


@pytest.fixture(scope="module")
def mnist_images():
    return RNG.integers(0, 256, (300, 28, 28, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, mnist_images):
    folder = tmp_path_factory.mktemp("prepared")
    encoded = [encode(image, "PNG") for image in mnist_images]
    write_stand_in("mnist", folder, {"train": encoded[:270], "test": encoded[270:]})
    return folder


@pytest.fixture
def folder(pristine, tmp_path, monkeypatch):
    """A data folder of its own per test, in which `mnist` is 240 + 30 + 30 images."""
    monkeypatch.setitem(DATASETS, "mnist", DATASETS["mnist"]._replace(counts=(240, 30, 30)))
    forbid_tensorflow(monkeypatch)
    return Path(shutil.copytree(pristine, tmp_path / "data"))


@pytest.fixture
def load_stand_in(tmp_path, monkeypatch):
    """A function that prepares {split: [encoded image]} as the data set `name` and loads it without TensorFlow."""

    def load_stand_in(name, counts, parts):
        write_stand_in(name, tmp_path, parts)
        monkeypatch.setitem(DATASETS, name, DATASETS[name]._replace(counts=counts))
        forbid_tensorflow(monkeypatch)
        return load(name, data_dir=tmp_path)

    return load_stand_in


def rows(array):
    return sorted(row.tobytes() for row in array)


def test_validation_is_cut_from_train_and_test_is_left_alone(folder, mnist_images):
    data = load("mnist", data_dir=folder)
    assert [part.shape for part in data[1:4]] == [(240, 28, 28, 1), (30, 28, 28, 1), (30, 28, 28, 1)]
    assert rows(np.concatenate([data.train, data.validation])) == rows(mnist_images[:270])
    assert rows(data.test) == rows(mnist_images[270:])
    assert (data.levels, data.train.dtype) == (256, np.uint8)
    assert data.split["source"] == "tensorflow-datasets mnist 3.0.1"
    assert data.split["counts"] == {"train": 240, "validation": 30, "test": 30}


def test_the_default_folder_comes_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv("GPVAE_JAX_DATA", str(folder))
    assert load("mnist").checksum == load("mnist", data_dir=folder).checksum


def test_celeb_a_keeps_its_own_validation_split_and_is_cropped(load_stand_in):
    """Flat dark faces in a white frame, outside of the central square; JPEG rounds and rings by a few levels."""
    colours = np.arange(0, 60, 10, dtype=np.uint8)
    faces = np.full((6, 218, 178, 3), 255, np.uint8)
    faces[:, 19:199, 6:172] = colours[:, None, None, None]
    encoded = [encode(image, "JPEG") for image in faces]
    parts = {"train": encoded[:3], "validation": encoded[3:5], "test": encoded[5:]}
    data = load_stand_in("celeb_a", (3, 2, 1), parts)
    for part, expected in zip(data[1:4], (colours[:3], colours[3:5], colours[5:]), strict=True):
        assert part.shape[1:] == (64, 64, 3)
        assert part.max() < 80
        np.testing.assert_allclose(sorted(part.mean((1, 2, 3))), expected, atol=2)
    assert "seed" not in data.split


@pytest.mark.parametrize("name", ["svhn_cropped", "cifar10"])
def test_colour_images(name, load_stand_in):
    images = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    encoded = [encode(image, "PNG") for image in images]
    data = load_stand_in(name, (9, 1, 2), {"train": encoded[:10], "test": encoded[10:]})
    assert rows(np.concatenate([data.train, data.validation])) == rows(images[:10])
    assert rows(data.test) == rows(images[10:])


def test_omniglots_one_bit_drawings(load_stand_in):
    drawing = np.full((105, 105), 255, np.uint8)
    drawing[:15, :30] = 0
    encoded = [encode(drawing, "PNG", "1")] * 4
    data = load_stand_in("omniglot", (2, 1, 1), {"train": encoded[:3], "test": encoded[3:]})
    expected = np.zeros((28, 28, 1), np.uint8)
    expected[:4, :8] = 255
    for part in data[1:4]:
        assert (part == expected).all()


def test_binarized_mnist_is_zeros_and_ones(load_stand_in):
    images = RNG.integers(0, 2, (6, 28, 28, 1), dtype=np.uint8)
    encoded = [encode(image, "PNG") for image in images]
    parts = {"train": encoded[:3], "validation": encoded[3:5], "test": encoded[5:]}
    data = load_stand_in("binarized_mnist", (3, 2, 1), parts)
    assert rows(data.validation) == rows(images[3:5])
    assert data.levels == 2
    assert data.test.max() == 1


# --- the cache ------------------------------------------------------------------------------------------------


def test_a_second_load_reads_only_the_cache(folder):
    first = load("mnist", data_dir=folder)
    shutil.rmtree(folder / "mnist")
    second = load("mnist", data_dir=folder)
    assert second._replace(train=0, validation=0, test=0) == first._replace(train=0, validation=0, test=0)
    for one, other in zip(first[1:4], second[1:4], strict=True):
        np.testing.assert_array_equal(one, other)
        assert not other.flags.writeable
    assert sorted(path.name for path in (folder / "arrays").iterdir()) == ["mnist.json", "mnist.npy"]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped byte": ("mnist.npy", flip_a_byte),
    "truncated": ("mnist.npy", lambda path: os.truncate(path, 1000)),
    "emptied": ("mnist.npy", lambda path: os.truncate(path, 0)),
    "missing": ("mnist.npy", os.unlink),
    "no JSON": ("mnist.json", lambda path: path.write_text("{")),
    "JSON without content": ("mnist.json", lambda path: path.write_text("{}")),
    "JSON of another kind": ("mnist.json", lambda path: path.write_text("[]")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_reported_and_made_again(folder, damage):
    first = load("mnist", data_dir=folder)
    name, inflict = DAMAGE[damage]
    inflict(folder / "arrays" / name)
    with pytest.warns(UserWarning, match=r"cached copy .*mnist.npy is damaged .* made again"):
        again = load("mnist", data_dir=folder)
    assert again.checksum == first.checksum
    np.testing.assert_array_equal(again.train, first.train)
    shutil.rmtree(folder / "mnist")
    assert load("mnist", data_dir=folder).checksum == first.checksum  # the repaired cache


def test_a_cache_made_by_another_recipe_is_made_again(folder, monkeypatch):
    assert len(load("mnist", data_dir=folder).validation) == 30
    monkeypatch.setitem(DATASETS, "mnist", DATASETS["mnist"]._replace(counts=(250, 20, 30)))
    assert len(load("mnist", data_dir=folder).validation) == 20


# --- broken prepared data -------------------------------------------------------------------------------------


def shard(folder, part):
    (path,) = (folder / "mnist" / "3.0.1").glob(f"mnist-{part}*")
    return path


BROKEN = {
    "truncated": (lambda folder: os.truncate(shard(folder, "train"), 70_000), "cannot be read"),
    "emptied": (lambda folder: os.truncate(shard(folder, "test"), 0), "cannot be read"),
    "missing": (lambda folder: shard(folder, "train").unlink(), "cannot be read"),
    "no description": (lambda folder: os.truncate(folder / "mnist/3.0.1/dataset_info.json", 0), "cannot be read"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_prepared_data_gets_one_sentence(folder, what):
    inflict, message = BROKEN[what]
    inflict(folder)
    with pytest.raises(ValueError, match=f"{folder}.*{message}.*delete that folder") as info:
        load("mnist", data_dir=folder)
    assert "\n" not in str(info.value)
    assert not (folder / "arrays").exists()


def test_prepared_data_of_another_size_is_refused(folder, monkeypatch):
    monkeypatch.setitem(DATASETS, "mnist", DATASETS["mnist"]._replace(counts=(240, 31, 30)))
    with pytest.raises(ValueError, match="holds 270 images in 'train', expected 271"):
        load("mnist", data_dir=folder)


def test_data_prepared_in_a_format_of_tensorflow_gets_one_sentence(folder):
    path = folder / "mnist" / "3.0.1" / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="was prepared as tfrecord, which cannot be read without TensorFlow"):
        load("mnist", data_dir=folder)


# --- preparation ----------------------------------------------------------------------------------------------


def nothing_prepared(folder):
    return not list(folder.rglob("*.json")) and not list(folder.rglob("*array_record*"))


def test_without_tensorflow_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    forbid_tensorflow(monkeypatch)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gpvae-jax\[prepare\]'") as info:
        load("mnist", data_dir=tmp_path)
    assert "\n" not in str(info.value)
    assert not list(tmp_path.iterdir())


def test_missing_raw_files_are_named(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"lacks t10k-images-idx3-ubyte.gz, t10k-labels.* of mnist"):
        load("mnist", data_dir=tmp_path / "data", raw_dir=tmp_path)


def test_a_raw_file_with_the_wrong_checksum_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "_require_tensorflow", lambda name: None)
    raw = tmp_path / "raw"
    raw.mkdir()
    for split in ("train", "valid", "test"):
        (raw / f"binarized_mnist_{split}.amat").write_text("0 1\n")
    with pytest.raises(ValueError, match=r"a raw file of binarized_mnist is not the original .*amat") as info:
        load("binarized_mnist", data_dir=tmp_path / "data", raw_dir=raw)
    assert "\n" not in str(info.value)
    assert nothing_prepared(tmp_path / "data")


@pytest.mark.parametrize("error", [requests.exceptions.ConnectionError, requests.exceptions.Timeout])
def test_without_a_network_the_sentence_names_the_files(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error("no route")

    monkeypatch.setattr(prepared, "_require_tensorflow", lambda name: None)
    monkeypatch.setattr(requests, "head", fail)
    with pytest.raises(ConnectionError, match=r"check the network, or .* raw_dir; they are t10k-images.*gz") as info:
        load("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(info.value)
    assert nothing_prepared(tmp_path)
