"""Normalizing flows on an amortized Gaussian."""
