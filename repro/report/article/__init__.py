"""The report as an article: LaTeX and PDF."""
