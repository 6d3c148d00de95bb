"""What the studies of specs/studies say: effects, outcomes, responses, machines."""
