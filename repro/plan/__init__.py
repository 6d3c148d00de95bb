"""What a run has to do and how long it takes, and so what a profile costs before anything runs."""
