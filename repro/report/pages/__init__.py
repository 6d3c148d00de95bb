"""What people read: HTML and Markdown."""
