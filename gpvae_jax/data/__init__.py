"""Data sets as plain numpy arrays: public ones by name, your own from arrays or a file.

    data = load("digits")                   # embedded in scikit-learn, nothing to download
    data = load("mnist")                    # through tensorflow-datasets; read without TensorFlow
    data = load("measurements.npz")         # your own

Reading a prepared data set needs no TensorFlow. Preparing one, the first time on a machine, does:
`pip install 'gpvae-jax[prepare]'`. Without a network, `raw_dir` points to files fetched elsewhere.
"""

from gpvae_jax.data.dataset import Dataset
from gpvae_jax.data.loading import load
from gpvae_jax.data.own import from_arrays, from_file
from gpvae_jax.data.registry import DATASETS, Spec

__all__ = ["DATASETS", "Dataset", "Spec", "from_arrays", "from_file", "load"]
