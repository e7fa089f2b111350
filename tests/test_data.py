"""The embedded digits, a user's own data, the image arithmetic and, where their files are, real data sets."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpvae_jax.data import DATASETS, from_arrays, load
from gpvae_jax.data.dataset import checksum, cut, permutation
from gpvae_jax.data.images import area_resize, centre_crop, decode, face_64x64, ink_28x28

RNG = np.random.default_rng(0)


def rows(array):
    return sorted(row.tobytes() for row in array)


def one_sentence(info):
    return "\n" not in str(info.value)


# --- the digits -----------------------------------------------------------------------------------------------


def test_digits_are_split_without_loss_or_overlap():
    from sklearn.datasets import load_digits

    data = load("digits")
    parts = (data.train, data.validation, data.test)
    assert [part.shape for part in parts] == [(1297, 8, 8, 1), (250, 8, 8, 1), (250, 8, 8, 1)]
    everything = load_digits().images.astype(np.uint8)
    assert len(set(rows(everything))) == 1797  # no digit occurs twice, so equal multisets mean disjoint parts
    assert rows(np.concatenate(parts)) == rows(everything)
    assert data.levels == 17
    assert data.train.max() == 16


def test_digits_are_the_same_every_time_and_everywhere():
    data = load("digits")
    assert data.checksum == "c4971dc1acc99a5aacd6dbf6381366b3ad72f0f655eb01e58d725a6f1257accf"
    assert load("digits").checksum == data.checksum
    assert json.loads(json.dumps(data.split))["counts"] == {"train": 1297, "validation": 250, "test": 250}


def test_the_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        load("digits").train[0] = 0


def test_the_checksum_sees_values_shapes_types_and_order():
    arrays = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.zeros((1, 3), np.uint8)]
    others = [
        [arrays[0] + np.uint8(1), arrays[1]],
        [arrays[0].reshape(3, 2), arrays[1]],
        [arrays[0].view(np.int8), arrays[1]],
        arrays[::-1],
    ]
    assert len({checksum(arrays), *map(checksum, others)}) == 5
    assert checksum([arrays[0].T.copy().T, arrays[1]]) == checksum(arrays)  # the memory layout is no content


def test_the_permutation_does_not_depend_on_the_version_of_numpy():
    assert permutation(8, seed=20).tolist() == [5, 6, 2, 0, 4, 1, 3, 7]
    assert sorted(permutation(1000, seed=3)) == list(range(1000))
    assert permutation(1000, seed=3).tolist() != permutation(1000, seed=4).tolist()


def test_cut_loses_nothing():
    images = np.arange(20)[:, None]
    rest, first, second = cut(images, [3, 5], seed=1)
    assert (len(rest), len(first), len(second)) == (12, 3, 5)
    assert sorted(np.concatenate([rest, first, second]).ravel()) == list(range(20))


# --- images ---------------------------------------------------------------------------------------------------


def area_reference(images, height, width):
    """Area averaging by repeating each row, then column, until the ratio is whole; in exact integers."""
    batch, old_height, old_width, channels = images.shape
    totals = images.astype(np.int64).repeat(height, 1)
    totals = totals.reshape(batch, height, old_height, old_width, channels).sum(2).repeat(width, 2)
    totals = totals.reshape(batch, height, width, old_width, channels).sum(3)
    area = old_height * old_width
    return ((2 * totals + area) // (2 * area)).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 12, 8, 1), (4, 4)), ((2, 7, 5, 3), (3, 2)), ((2, 105, 105, 1), (28, 28)), ((1, 300, 260, 1), (7, 9))],
)
def test_area_resize_is_the_mean_over_the_area(shape, size):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(area_resize(images, *size), area_reference(images, *size))


def test_area_resize_by_hand():
    row = np.array([10, 20, 90], np.uint8).reshape(1, 1, 3, 1)
    # halves of [10, 20, 90]: (10 + 20/2) / 1.5 = 13.3 and (20/2 + 90) / 1.5 = 66.7
    assert area_resize(row, 1, 2).ravel().tolist() == [13, 67]
    assert area_resize(np.array([0, 1], np.uint8).reshape(1, 1, 2, 1), 1, 1).item() == 1  # a half is rounded up
    white = np.full((1, 105, 105, 3), 255, np.uint8)
    assert (area_resize(white, 28, 28) == 255).all()


def test_centre_crop():
    image = np.arange(6 * 5).reshape(1, 6, 5, 1)
    np.testing.assert_array_equal(centre_crop(image, 2, 2)[0, :, :, 0], [[11, 12], [16, 17]])


def test_omniglot_drawings_become_ink_on_nothing():
    paper = np.full((1, 105, 105, 1), 255, np.uint8)
    assert not ink_28x28(paper).any()
    drawing = paper.copy()
    drawing[0, :15, :30] = 0  # 15 / 3.75 = 4 rows, 30 / 3.75 = 8 columns
    expected = np.zeros((1, 28, 28, 1), np.uint8)
    expected[0, :4, :8] = 255
    np.testing.assert_array_equal(ink_28x28(drawing), expected)


def test_faces_are_the_central_square_shrunk():
    faces = RNG.integers(0, 256, (2, 218, 178, 3), dtype=np.uint8)
    small = face_64x64(faces)
    np.testing.assert_array_equal(small, area_reference(faces[:, 35:183, 15:163], 64, 64))


def test_decoding_converts_every_kind_of_picture():
    def encode(image, kind):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        return buffer.getvalue()

    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode(encode(bits, "PNG"), 1)[..., 0], [[0, 255], [255, 0]])
    colours = RNG.integers(0, 256, (4, 3, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(colours), "PNG"), 3), colours)
    flat = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
    assert abs(decode(encode(flat, "JPEG"), 3).astype(int) - 100).max() <= 2


# --- own data -------------------------------------------------------------------------------------------------


def test_a_single_array_is_split_80_10_10():
    images = np.arange(50 * 6, dtype=np.int64).reshape(50, 2, 3) % 256
    data = from_arrays(images)
    assert [part.shape for part in data[1:4]] == [(40, 2, 3, 1), (5, 2, 3, 1), (5, 2, 3, 1)]
    assert (data.train.dtype, data.levels) == (np.uint8, 256)
    assert rows(np.concatenate(data[1:4])) == rows(images.astype(np.uint8))
    assert data.split["cut from train"] == ["validation", "test"]
    assert from_arrays(images).checksum == data.checksum != from_arrays(images, seed=1).checksum


def test_given_splits_are_kept_and_only_missing_ones_are_cut():
    train, test = RNG.normal(size=(30, 4)), RNG.normal(size=(7, 4))
    data = from_arrays(train, train[:2], test)
    np.testing.assert_array_equal(data.train, train.astype(np.float32))
    np.testing.assert_array_equal(data.validation, train[:2].astype(np.float32))
    assert (data.train.dtype, data.levels, data.split["seed"]) == (np.float32, None, None)
    data = from_arrays(train, test=test)
    assert [len(part) for part in data[1:4]] == [27, 3, 7]
    np.testing.assert_array_equal(data.test, test.astype(np.float32))


def test_the_callers_array_is_copied():
    mine = np.zeros((3, 2), np.uint8)
    data = from_arrays(mine, mine, mine)
    mine[:] = 9
    assert not data.train.any()


@pytest.mark.parametrize(
    ("array", "levels", "expected"),
    [
        (np.eye(12, dtype=bool), None, 2),
        (np.eye(12, dtype=np.int32), None, 2),
        (7 * np.eye(12, dtype=np.uint8), None, 256),
        (7 * np.eye(12, dtype=np.uint8), 8, 8),
        (np.eye(12, dtype=np.float16), None, None),
    ],
)
def test_levels_of_own_data(array, levels, expected):
    assert from_arrays(array, levels=levels).levels == expected


GOOD = np.zeros((20, 4, 4), np.uint8)
BAD = {
    "expected \\[N, D\\]": {"train": np.zeros(20)},
    "expected \\[N, D\\], \\[N, H, W\\] or": {"train": np.zeros((2, 2, 2, 2, 2))},
    "too few to cut validation and test from": {"train": GOOD[:9]},
    "empty": {"train": GOOD[:0]},
    "2 values that are not finite": {"train": np.array([[0.0, np.nan], [np.inf, 1.0]])},
    "1 values that are not finite": {"train": np.array([[0.0, 1e300]])},  # beyond float32
    "expected booleans, integers": {"train": np.array([[object()]])},
    "is complex128": {"train": np.zeros((20, 2), complex)},
    "differ in shape": {"train": [[1, 2], [3]]},
    "from 0 to 256: integers must lie in": {"train": np.array([[0, 256]])},
    "from -1 to 0: integers must lie in": {"train": np.array([[0, -1]])},
    "rows of test are uint8 \\(5, 4, 1\\) but those of train uint8 \\(4, 4, 1\\)": {
        "train": GOOD,
        "test": np.zeros((20, 5, 4), np.uint8),
    },
    "rows of validation are float32": {"train": GOOD, "validation": GOOD.astype(float)},
    "train is None": {"train": None, "test": GOOD},
    "levels=3, but the values reach 5": {"train": GOOD + 5, "levels": 3},
    "levels=300, but": {"train": GOOD, "levels": 300},
    "levels=256 is for integer data": {"train": GOOD.astype(float), "levels": 256},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arrays_get_one_sentence(message):
    with pytest.raises(ValueError, match=message) as info:
        from_arrays(**BAD[message])
    assert one_sentence(info)


def test_own_data_from_files(tmp_path):
    images = RNG.integers(0, 5, (40, 6), dtype=np.uint8)
    np.save(tmp_path / "one.npy", images)
    np.savez(tmp_path / "one.npz", anything=images)
    np.savez_compressed(tmp_path / "all.npz", train=images, validation=images[:3], test=images[:5], levels=5)
    one, same, everything = (load(tmp_path / name) for name in ("one.npy", "one.npz", "all.npz"))
    assert one.checksum == same.checksum == from_arrays(images).checksum
    assert (one.name, one.split["source"]) == ("one", str(tmp_path / "one.npy"))
    assert [len(part) for part in everything[1:4]] == [40, 3, 5]
    assert everything.levels == 5
    assert load(str(tmp_path / "all.npz")).checksum == everything.checksum


def write_bad_files(folder):
    np.savez(folder / "objects.npz", train=np.array([{}, {}], dtype=object))
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object))
    np.savez(folder / "names.npz", train=GOOD, val=GOOD)
    np.savez(folder / "no_train.npz", validation=GOOD, test=GOOD)
    np.savez(folder / "levels.npz", train=GOOD, levels=[2, 3])
    np.savez(folder / "nothing.npz")
    (folder / "text.npz").write_text("not an archive")
    (folder / "empty.npy").touch()
    (folder / "table.csv").write_text("1,2")
    np.savez_compressed(folder / "whole.npz", train=RNG.integers(0, 256, (30, 99), dtype=np.uint8))
    content = (folder / "whole.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(content[: len(content) // 2])
    (folder / "flipped.npz").write_bytes(content[:500] + bytes(b ^ 255 for b in content[500:600]) + content[600:])
    np.save(folder / "whole.npy", GOOD)
    (folder / "truncated.npy").write_bytes((folder / "whole.npy").read_bytes()[:-10])


BAD_FILES = {
    "objects.npz": "Python objects",
    "objects.npy": "Python objects",
    "names.npz": "holds the arrays train, val: expected",
    "no_train.npz": "holds the arrays validation, test: expected",
    "levels.npz": "levels must be one integer",
    "nothing.npz": "holds the arrays \\(none\\)",
    "text.npz": "cannot be read as a numpy .npz file",
    "empty.npy": "cannot be read as a numpy .npy file",
    "truncated.npz": "cannot be read as a numpy .npz file",
    "flipped.npz": "cannot be read as a numpy .npz file",
    "truncated.npy": "cannot be read as a numpy .npy file",
    "table.csv": "read from a .npz or a .npy file",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_sentence_that_names_them(tmp_path, name):
    write_bad_files(tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))}.*{BAD_FILES[name]}") as info:
        load(tmp_path / name)
    assert one_sentence(info)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: there is no such file"):
        load(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("Fashion-MNIST", "did you mean 'fashion_mnist'"),
        ("celeba", "did you mean 'celeb_a'"),
        ("x", "known are: binarized_mnist"),
        ("table.csv", "own data are read from a .npz or .npy file"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(name, hint):
    with pytest.raises(ValueError, match=hint):
        load(name)


def test_every_registered_data_set_describes_itself():
    for name, spec in DATASETS.items():
        assert spec.description, name
        assert len(spec.shape) == len(spec.counts) == 3, name
        assert spec.levels in (2, 17, 256), name


def test_a_data_folder_that_cannot_be_made_gets_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"the data folder .* cannot be made .* GPVAE_JAX_DATA"):
        load("mnist", data_dir=tmp_path / "file")


# --- the real thing, where its files are --------------------------------------------------------------------

RAW = os.environ.get("GPVAE_JAX_RAW_DATA")
REAL = {
    "mnist": (33.318, "482cbc20ecdd8160ef4a9d54a115fc78abb3f81f2e5ecdde2c98e07f2df8b6f5"),
    "fashion_mnist": (72.940, "b0304e2b334946daf57c1b7788dba57c16a42a1defec5bcca7b82f278920bbc1"),
}


@pytest.mark.slow
@pytest.mark.skipif(not RAW, reason="GPVAE_JAX_RAW_DATA, the folder of raw files, is not set")
def test_the_real_raw_files_are_prepared_without_mixing_them_up(tmp_path):
    """MNIST and Fashion-MNIST have files of the same names; prepared in turn, each keeps its own pictures."""
    pytest.importorskip("tensorflow")
    for name, (mean, expected) in REAL.items():
        data = load(name, data_dir=tmp_path, raw_dir=Path(RAW) / name)
        assert [len(part) for part in data[1:4]] == [50_000, 10_000, 10_000]
        pixels = np.concatenate([data.train, data.validation])
        assert abs(pixels.mean() - mean) < 0.01
        assert data.checksum == expected
        assert load(name, data_dir=tmp_path).checksum == expected
