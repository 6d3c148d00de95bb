"""Replication of "Effective Backdoor Mitigation Depends on the Pre-training Objective"."""

__version__ = "0.1.0"
