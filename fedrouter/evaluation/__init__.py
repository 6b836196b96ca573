"""Answers of adapters on test rows, and their scores."""
