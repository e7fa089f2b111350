"""The Gaussian process on the amortization error: features, weight posteriors, the marginal posterior, closed forms."""
