"""Numbers with their intervals: evaluations, claims, verdicts, tables."""
