"""What a faster setting costs: the same questions at several settings, each compared with a reference setting.

Answers are paired by question, so that a difference between settings shows on few questions: which ones were gained and lost,
how likely that is by chance, and how far the texts agree. ``python -m benchmarks.fidelity`` runs it; ``marking.py`` has the
questions and how answers are marked, ``runs.py`` asks them at every setting and keeps the answers, ``report.py`` compares.

Leaves the answering to ``NudgingGenerator``, the rules of IFEval to PyPI's ``if-verifiable`` (where it is installed), and seconds
to ``benchmarks.speed``; forwards are counted here because they are exact.

Questions come from ``NUDGING_DATA`` (GSM8K, SVAMP, IFEval). IFEval's sentence and word rules need NLTK's ``punkt_tab``; the
copy inside llama-index-core is used where there is one.
"""

from __future__ import annotations


class FidelityError(Exception):
    """This run cannot be made as asked; the message says why."""


class SkippedError(FidelityError):
    """One kind of question cannot be marked here."""
