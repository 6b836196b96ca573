"""A finished run as files that other programs load."""

from fedrouter.export.export import TARGETS, export_run

__all__ = ["TARGETS", "export_run"]
