"""Data sets prepared by tensorflow-datasets: preparing needs TensorFlow, reading the result does not."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gpvae_jax.data.dataset import SPLIT_SEED, SPLITS, Dataset, cut, make_dataset
from gpvae_jax.data.images import decode
from gpvae_jax.data.registry import DATASETS, Spec

_CHUNK = 256  # images decoded at a time: bounds the memory that originals larger than the result take


def load(name: str, folder: Path, raw_dir: Path | None) -> Dataset:
    """Read a registered data set prepared in `folder`, preparing it first if it is not there yet.

    Arguments and errors are those of `gpvae_jax.data.load`, with `folder` its resolved `data_dir`.
    """
    spec = DATASETS[name]
    builder = _open(name, folder)
    if not builder.is_prepared():
        prepare(name, folder, raw_dir)
        builder = _open(name, folder)
    parts = {part: _read(builder, part, spec) for part in _stored_counts(spec)}
    split: dict[str, Any] = {"source": f"{spec.source} {name} {builder.version}"}
    if not spec.own_validation:
        parts["train"], parts["validation"] = cut(parts["train"], spec.counts[1:2], SPLIT_SEED)
        split |= {"seed": SPLIT_SEED, "cut from train": ["validation"]}
    return make_dataset(name, [parts[part] for part in SPLITS], spec.levels, split)


def prepare(name: str, folder: Path, raw_dir: Path | None) -> None:
    """Prepare a data set with tensorflow-datasets' own builder, from `raw_dir` or from the network.

    A failure leaves nothing that could be read later: tensorflow-datasets writes to a folder of another name
    and renames it at the end. (A killed run leaves folders called `incomplete…` and `unpacked-…`, which are
    never read and may be deleted.)

    Files are unpacked in a folder of their own, because the default one is shared by all data sets and keyed by
    file name alone: Fashion-MNIST, whose files are called like MNIST's, would silently be filled with digits.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    if raw_dir is not None:
        _check_raw_files(builder, raw_dir)
    _require_tensorflow(name)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"unpacked-{name}-") as unpacked:
        config = tfds.download.DownloadConfig(
            manual_dir=raw_dir,
            extract_dir=unpacked,
            try_download_gcs=False,
            force_checksums_validation=True,
        )
        _download_and_prepare(builder, config, folder)


def _download_and_prepare(builder: Any, config: Any, folder: Path) -> None:
    import requests  # a dependency of tensorflow-datasets
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    try:
        if config.manual_dir is None and not any((folder / "downloads" / builder.name).rglob("*.INFO")):
            # Nothing downloaded yet: see at once whether there is a network; the retries below take minutes.
            requests.head(next(iter(builder.url_infos)), timeout=20)
        builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
        found = str(error).splitlines()[0].rstrip(":")
        raise ValueError(
            f"a raw file of {builder.name} is not the original that tensorflow-datasets knows, fetch it again: {found}"
        ) from error
    except (requests.exceptions.RequestException, DownloadError) as error:
        raise ConnectionError(
            f"the raw files of {builder.name} could not be downloaded ({type(error).__name__}): check the "
            "network, or fetch them elsewhere and give their folder as raw_dir; they are "
            f"{', '.join(_raw_files(builder))}"
        ) from error


def _raw_files(builder: Any) -> list[str]:
    return sorted(info.filename for info in builder.url_infos.values())


def _check_raw_files(builder: Any, raw_dir: Path) -> None:
    """Without this, tensorflow-datasets would go to the network for a missing file."""
    missing = [file for file in _raw_files(builder) if not (raw_dir / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{raw_dir} lacks {', '.join(missing)}: raw_dir must hold the original files of {builder.name}"
        )


def _require_tensorflow(name: str) -> None:
    try:
        import tensorflow  # noqa: F401  only to see that it works before anything is written
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the data set {name} has yet to be prepared on this machine, which needs TensorFlow (reading it "
            "later does not): pip install 'gpvae-jax[prepare]', or point data_dir to a folder where it is prepared"
        ) from error


def _open(name: str, folder: Path) -> Any:
    import tensorflow_datasets as tfds  # takes half a second to import

    try:
        return tfds.builder(name, data_dir=folder)
    except Exception as error:  # a damaged description, which protobuf reports by classes of its own
        raise _unreadable(folder / name, error) from error


def _read(builder: Any, part: str, spec: Spec) -> np.ndarray:
    """Decode one split of a prepared data set to uint8 [N, H, W, C], in the order it is stored."""
    from tensorflow_datasets.core.decode import SkipDecoding

    try:
        source = builder.as_data_source(part, decoders={"image": SkipDecoding()})
        images = np.empty((len(source), *spec.shape), np.uint8)
        for start in range(0, len(source), _CHUNK):
            rows = source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
            stored = np.stack([decode(row["image"], spec.shape[-1]) for row in rows])
            images[start : start + len(rows)] = spec.transform(stored)
    except NotImplementedError as error:
        raise ValueError(
            f"{builder.data_dir} was prepared as {builder.info.file_format.value}, which cannot be read without "
            "TensorFlow: give another data_dir to prepare it as array_record"
        ) from error
    except Exception as error:  # whatever the record reader, protobuf or Pillow makes of a damaged file
        raise _unreadable(builder.data_dir, error) from error
    expected = _stored_counts(spec)[part]
    if len(images) != expected:
        raise ValueError(
            f"{builder.data_dir} holds {len(images)} images in {part!r}, expected {expected}: delete that folder "
            "and load the data set again"
        )
    return images


def _stored_counts(spec: Spec) -> dict[str, int]:
    train, validation, test = spec.counts
    if spec.own_validation:
        return {"train": train, "validation": validation, "test": test}
    return {"train": train + validation, "test": test}


def _unreadable(folder: str | Path, error: Exception) -> ValueError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return ValueError(
        f"the prepared data set in {folder} cannot be read ({reason}); if it is damaged, delete that folder and "
        "load it again"
    )
