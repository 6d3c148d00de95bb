"""The paper's claims and what the evidence says about them: claims, measured quantities, verdicts."""
