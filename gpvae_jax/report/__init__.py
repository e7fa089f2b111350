"""What a comparison of methods found: as a table and as one HTML file."""

from gpvae_jax.report.page import Picture, page, png, write_report
from gpvae_jax.report.rows import CompareRow, Estimate, estimate
from gpvae_jax.report.table import table

__all__ = ["CompareRow", "Estimate", "Picture", "estimate", "page", "png", "table", "write_report"]
