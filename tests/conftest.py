"""Strict arithmetic for every test: silent broadcasting of [S, B] against [B] and silent dtype changes raise."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# compiling is most of what these tests cost, and tiny networks gain nothing from optimised code
jax.config.update("jax_disable_most_optimizations", True)
