"""Mixtures of encoders: components, weights, their posterior and bounds, diagnostics, order selection."""
