"""Tools that a model may call: definitions, prompts, and the parser of calls."""
