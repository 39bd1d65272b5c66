"""Where predictions come from: one file for each engine."""
