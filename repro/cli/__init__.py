"""The commands: their table, the whole pipeline, and one run alone for a debugger."""
