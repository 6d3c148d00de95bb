"""The replication report: from ledger rows to numbers, intervals, verdicts, figures and pages."""

from repro.report.publish import publish
from repro.report.render import report_stage
from repro.report.replay import replay
from repro.report.verify import verify

__all__ = ["publish", "replay", "report_stage", "verify"]
