"""Where runs go: which are due, on which places, through which processes."""
