"""Text: tokenizers, and the two models' prompts."""
