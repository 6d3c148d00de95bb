"""The paper's claims and what the evidence says: claims, measured quantities, verdicts."""
