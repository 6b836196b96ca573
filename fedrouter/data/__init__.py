"""Rows from anywhere, split once, and shared out among clients."""
