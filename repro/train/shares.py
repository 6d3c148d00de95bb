"""What checkpoints and steps may take of a machine: the forecast reads it without torch."""

KEEP_CHECKPOINTS = 2
"""Checkpoints kept per run."""
CHECKPOINT_SHARE = 0.01
"""Share of the wall time that checkpoints may take, from the first copy to the last byte."""
MEMORY_SHARE = 0.8
"""Share of a rank's memory that a plain step may keep for backward, beside weights and moments."""
