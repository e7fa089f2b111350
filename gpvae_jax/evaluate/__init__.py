"""How good a posterior is, and how fast: everything here works for every method."""

from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.latency import Latency, inference_call, measure

__all__ = ["Latency", "importance_bounds", "inference_call", "measure"]
