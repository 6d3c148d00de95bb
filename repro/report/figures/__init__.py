"""Figures of the report: documents in, drawings out."""
