"""Stage report, callable as a function."""

from components.report.stage import report

__all__ = ["report"]
