"""The contract of a run: its identity, where it lies, what code and machine made it."""
