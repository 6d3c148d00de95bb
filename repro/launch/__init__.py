"""The launcher: which runs are due, where they go, and the publication of what they made."""

from repro.launch.driver import clean_stage, pretrain_stage, run_all
from repro.launch.identity import LaunchError

__all__ = ["LaunchError", "clean_stage", "pretrain_stage", "run_all"]
