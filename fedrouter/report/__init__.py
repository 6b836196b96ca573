"""One self-contained HTML file about a run or a comparison: `write_report`."""

from fedrouter.report.writer import write_report

__all__ = ["write_report"]
