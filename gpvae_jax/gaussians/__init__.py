"""Gaussian posteriors beyond the amortized diagonal one: full covariance, local coordinates, per-example optima."""
