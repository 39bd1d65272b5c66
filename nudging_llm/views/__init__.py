"""Ways to look at an answer's provenance. None needs a model."""
