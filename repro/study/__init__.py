"""A profile varied in named ways over several seeds."""
