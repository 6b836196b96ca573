"""Evaluation: responses of adapters on test rows, and their metrics."""
