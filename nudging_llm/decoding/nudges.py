"""Which words of a completion the nudging model writes, and what follows text that a constraint forces."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol import Steps
from ..provenance import Reason
from .answer import Answer, Word
from .reader import BaseReader, Completion
from .rules import Rules, words_after_first
from .turn import Turn


@dataclass(frozen=True, slots=True)
class Nudge:
    """What the nudging model writes in a round.

    Attributes:
        words: in order.
        then: the turn after them.
        ends: whether the answer ends with them.
        at_forced: whether text follows that the constraint forces.
    """

    words: tuple[Word, ...]
    then: Turn
    ends: bool = False
    at_forced: bool = False

    @property
    def text(self) -> str:
        """The words, joined."""
        return "".join(word.text for word in self.words)


#: The nudging model goes on where nothing was tested.
_UNTESTED = Turn("nudging", Reason.LOOKAHEAD_CUT)


def take_words(
    base: BaseReader, answer: Answer, rules: Rules, turn: Turn, completion: Completion, ends: bool = False
) -> Steps:
    """Decide which words of a completion are taken (paper, section 3.2; released code, stage 1). Returns a ``Nudge``.

    The first word always is. Before each further word the base model is asked whether it takes over. The last word is not taken,
    as the lookahead may have cut it, unless it is the only one or nothing can follow it. Of a completion that ``ends`` the answer
    all words are taken, and the base model is asked for the record only.
    """
    before, text = answer.text, completion.text
    base.expect(text + (answer.constraint.forced(before + text, "base") if completion.at_forced else ""))
    if (
        not text and completion.ended and not ends
    ):  # stop_on="both": the nudging model would end, the base model would not
        return Nudge((), Turn("base", Reason.HANDOVER_CONFIDENT, (yield from base.at(before))))
    if not text:
        return Nudge((), _UNTESTED, ends=True)
    evidence = turn.evidence if turn.evidence is not None else (yield from base.at(before))
    marks = [(0, Reason.ENDING if ends else turn.why, evidence)]
    then, taken, closed = _UNTESTED, text, completion.ended or completion.at_forced
    for start in words_after_first(text, completion.ended):
        taken = taken if closed else text[: start.before]
        if not start.text:  # not tested
            then = _UNTESTED
            continue
        tested = yield from base.at(before + text[: start.before])
        reason = rules.takes_over(tested, base.token_text(tested.top), " " + start.text)
        if reason is not None and not ends:
            taken, then = text[: start.before], Turn("base", reason, tested)
            break
        then = Turn("nudging", Reason.UNCERTAIN, tested)
        marks.append((start.cut, Reason.ENDING if ends else Reason.UNCERTAIN, tested))
    marks = [mark for mark in marks if mark[0] < len(taken)]
    stops = [*(cut for cut, _, _ in marks[1:]), len(taken)]
    words = tuple(Word(taken[cut:stop], why, seen) for (cut, why, seen), stop in zip(marks, stops, strict=True))
    return Nudge(words, then, ends, completion.at_forced and then.writer == "nudging")


def base_agrees_to_end(base: BaseReader, answer: Answer, rules: Rules, turn: Turn, text: str) -> Steps:
    """Returns whether the answer may end after ``text``: with ``stop_on="both"`` the base model must end its text there too."""
    if rules.config.stop_on != "both" or (not text and turn.base_ended):
        return True
    after = answer.text + text
    if answer.constraint.complete(after):
        return True
    prediction = yield from base.at_once(after)
    return base.is_end(prediction.token)


def turn_after_forced(base: BaseReader, answer: Answer, rules: Rules) -> Steps:
    """Write what the constraint forces after a nudge. Returns the next turn: the base model's if it is sure; where the answer may
    end, the nudging model says whether it does."""
    yield from answer.write_forced("base")
    if answer.may_end:
        return _UNTESTED
    tested = yield from base.at_once(answer.text)
    if rules.sure(tested):
        return Turn("base", Reason.HANDOVER_CONFIDENT, tested)
    return Turn("nudging", Reason.UNCERTAIN, tested)
