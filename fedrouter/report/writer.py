"""Writes the report of a run or a comparison."""

from pathlib import Path

from fedrouter.report.comparison_report import comparison_report
from fedrouter.report.run_report import run_report
from fedrouter.storage.atomic import write_bytes
from fedrouter.storage.run_folder import RunFolder, write_errors


def write_report(path: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run or of a comparison; returns its path.

    Raises:
        RunError: the folder is neither a run nor a comparison, or nothing in it is finished.
        MissingExtraError: matplotlib is not installed.
    """
    compared = (path / "results.json").exists()
    html = comparison_report(path) if compared else run_report(RunFolder.open(path))
    target = path / "report.html"
    with write_errors(path, "free some space and report again"):
        write_bytes(target, html.encode())
    return target
