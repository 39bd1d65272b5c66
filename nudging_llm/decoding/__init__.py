"""The rules of nudging, without any input or output: no torch, no transformers, no llguidance, no network."""
