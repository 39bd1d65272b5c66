"""The nudging algorithm (arXiv 2410.09300, Algorithm 1), on a page: ``nudged`` → ``nudge`` → ``base_run``.

A decode is a generator that *asks* (yields a ``Query``, is sent a ``Prediction``) and *yields* pieces. Who answers, in which
thread, on which machine, is the driver's business; so one text serves sync, async, batched and remote. The value that is
passed on is the ``Turn``: who writes next, why, and on what evidence. Every end of the answer is an ``AnswerEnded``.

Which words of a completion are taken: ``nudges.py``. Who is sure, and where words begin: ``rules.py``. Tokens, guesses and
completions: ``reader.py``. What is written: ``answer.py``. ``paper.py`` has what only ``NudgingConfig.paper()`` does. "Released
code" is the authors' public implementation.
"""

from __future__ import annotations

from ..protocol import Steps
from ..provenance import Reason
from .answer import Answer
from .nudges import Nudge, base_agrees_to_end, take_words, turn_after_forced
from .paper import EqualNudges, base_run_in_chunks
from .reader import BaseReader, ModelReader, NudgingReader, TokenRun
from .rules import Rules
from .turn import AnswerEnded, Turn


def nudged(base: BaseReader, nudging: NudgingReader, answer: Answer, rules: Rules) -> Steps:
    """Rounds of a nudge and a base run, until something ends the answer. Raises ``AnswerEnded``."""
    config, turn = rules.config, Turn("nudging", Reason.OPENING)
    run, repeats = (base_run_in_chunks, EqualNudges()) if config.repetition == "paper" else (base_run, None)
    yield from answer.write_forced("nudging")
    while answer.has_room and answer.round != config.max_rounds:
        before = len(answer.text)
        for part in (answer, base, nudging):
            part.begin_round()
        found = yield from nudge(base, nudging, answer, rules, turn)  # 1. the nudging model opens every round
        if repeats is not None and not found.ends and repeats.ends_with(found.text):
            raise AnswerEnded("repetition")
        yield from answer.write_words(found.words)
        if found.ends:
            raise AnswerEnded("stop")
        turn = (yield from turn_after_forced(base, answer, rules)) if found.at_forced else found.then
        if turn.writer == "base" and not answer.capped(1):  # 2. the base model writes while it is sure
            turn = yield from run(base, nudging, answer, rules, turn)
            if turn.base_ended and config.stop_on == "either":
                raise AnswerEnded("stop")
        if len(answer.text) == before:  # a round that adds nothing would repeat for ever
            raise AnswerEnded("stop")
    raise AnswerEnded("length")


def nudge(base: BaseReader, nudging: NudgingReader, answer: Answer, rules: Rules, turn: Turn) -> Steps:
    """Returns the nudging model's words up to where the base model takes over (paper, section 3.2), as a ``Nudge``.

    ``end_check="lookahead"`` (paper): the completion is made first, and an end of text in it ends the answer.
    ``end_check="sentence"``: it is made as far as needed to find a hand-over; it ends the answer if there is none before its end.
    """
    completion = nudging.begin_completion(base.rejected_text(turn.evidence))
    lazy = rules.config.end_check == "sentence"
    while True:
        yield from nudging.look(completion)
        if lazy and completion.text:
            found: Nudge = yield from take_words(base, answer, rules, turn, completion)
            if found.then.writer == "base" or (completion.whole and not completion.ended):
                nudging.looked(completion, used=len(found.text) + 2)  # characters: up to the next word's first
                break
        if completion.whole:
            ends = completion.ended and (yield from base_agrees_to_end(base, answer, rules, turn, completion.text))
            found = yield from take_words(base, answer, rules, turn, completion, ends)
            break
    base.remember_proposal()
    nudging.remember(completion)
    return found


def base_run(base: ModelReader, nudging: NudgingReader | None, answer: Answer, rules: Rules, turn: Turn) -> Steps:
    """The base model writes until it is unsure, its text ends, or the answer does. Returns the next turn.

    Its first token was predicted already, in the test that handed over to it; that token's own probability is not checked.
    """
    prediction, reason = turn.evidence, turn.why
    assert prediction is not None
    answer.begin_run(rules.markers)
    run = TokenRun(base.encoder, base.encode(answer.text))
    while not base.is_end(prediction.token):
        if (piece := run.take(prediction, reason)) is not None:  # a character is whole
            if not (yield from answer.write_run(piece, base.model)):
                return Turn("nudging", Reason.BASE_ENDED, base_ended=True)
            if (yield from answer.write_forced(base.model)):
                if answer.may_end and not rules.alone:  # the nudging model says whether it ends
                    return Turn("nudging", Reason.LOOKAHEAD_CUT)
                run.tokens = base.encode(answer.text)
        if answer.n_tokens + run.waiting >= rules.config.max_tokens:
            raise AnswerEnded("length")
        base.drafts.observe(run.tokens)
        yield from base.expect_run(run.tokens, nudging)
        prediction = yield from base.predict(run.tokens, answer.text, tail=run.tail)
        if not rules.sure(prediction):
            return Turn("nudging", Reason.UNCERTAIN, prediction)
        at_end = piece is not None and not base.is_end(prediction.token) and rules.asks_for_end(answer.text, piece.text)
        if nudging is not None and at_end and answer.may_end and (yield from nudging.would_end()):
            raise AnswerEnded("stop")
        reason = Reason.ALONE if rules.alone else Reason.CONFIDENT
    return Turn("nudging", Reason.BASE_ENDED, prediction, base_ended=True)
