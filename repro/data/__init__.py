"""What a run reads, and the attack: pairs in stores, prompts, poison, triggers."""
