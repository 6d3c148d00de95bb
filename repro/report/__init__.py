"""The replication report: from ledger rows to numbers, intervals, verdicts, figures and pages."""

from repro.report.render import report_stage

__all__ = ["report_stage"]
