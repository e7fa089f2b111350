"""Strict arithmetic for every test: silent broadcasting of [S, B] against [B] and silent dtype changes raise."""

import os
from collections.abc import Iterator

import jax
import pytest

from gpvae_jax.evaluate import latency

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# compiling is most of what these tests cost, and tiny networks gain nothing from optimised code
jax.config.update("jax_disable_most_optimizations", True)
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
# XLA's older code generator takes half the time for tiny programs; later versions abort on the flag, or may
if jax.__version_info__ < (0, 11) and OLDER_EMITTERS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLDER_EMITTERS}".strip()


def pytest_configure(config: pytest.Config) -> None:
    """Compile once for all workers, and for the next run: programs are kept in pytest's cache."""
    if getattr(config, "cache", None) is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = str(config.cache.mkdir("compiled"))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder  # for the processes that tests start
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """Inference is timed for a moment (ten readings at least) after every evaluation, not for a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(latency.measure.__kwdefaults__, "seconds", 0.05)
        yield
