"""Differential privacy: clipping, noise, and the account of what a run has released."""
