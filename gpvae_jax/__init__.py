"""Variational autoencoders with better posteriors, and the means to judge them, in JAX."""

__version__ = "0.1.0"
