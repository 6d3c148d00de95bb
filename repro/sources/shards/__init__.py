"""Pairs and images in the user's own tar shards and folders."""
