"""Where runs go: which are due, on which devices, through which processes."""
