"""Emoji drawings with their names, from package registries."""
