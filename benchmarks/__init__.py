"""Measurements and demonstrations, each one command: ``python -m benchmarks.NAME``."""
