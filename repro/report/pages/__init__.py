"""What people read: HTML, LaTeX, figures, Markdown."""
