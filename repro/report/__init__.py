"""The replication report: from ledger rows to numbers, intervals, verdicts, figures and pages."""
