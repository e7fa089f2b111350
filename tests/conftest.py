"""Strict arithmetic for every test: silent broadcasting of [S, B] against [B] and silent dtype changes raise."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
