"""What a profile costs, before anything runs."""
