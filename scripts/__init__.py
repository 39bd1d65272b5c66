"""Programs that make or show something for this repository, one command each: ``python -m scripts.demo``."""
