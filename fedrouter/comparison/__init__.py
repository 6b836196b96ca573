"""Comparison of strategies over scenarios and seeds: `fedrouter compare`."""

from fedrouter.comparison.harness import compare
from fedrouter.comparison.tables import Table, markdown, notes, tables

__all__ = ["Table", "compare", "markdown", "notes", "tables"]
