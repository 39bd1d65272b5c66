"""The paper's rules a second time: deliberately slow, obvious, and independent of ``nudging_llm``.

No cache, no drafts, no incremental anything: at every step the whole text is tokenised and the model is asked afresh.
Written after the design's section 4 and the released code's behaviour, as functions over strings. ``Ref`` wraps a model as two
plain functions, so it serves fake and real models alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

BAD = "\ufffd"


@dataclass
class Ref:
    """A model: prompt, whole-text tokeniser, and next-token function."""

    prompt_ids: list[int]
    prompt_text: str
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    ends: set[int]
    next: Callable[[list[int]], tuple[int, float]]  # tokens -> (most likely id, its probability)

    def tokens(self, answer: str) -> list[int]:
        text = self.prompt_text + answer
        if self.prompt_text and answer and not answer[0].isspace() and not self.prompt_text[-1].isspace():
            text = self.prompt_text + " " + answer
        return self.prompt_ids + self.encode(text)

    def grown(self, new: list[int]) -> str:
        """Text of ``new`` tokens, taken in the shortest groups that are whole characters; a group cut short is left out."""
        return self.split(new)[0]

    def split(self, new: list[int]) -> tuple[str, list[int]]:
        text, group = "", []
        for token in new:
            group.append(token)
            if not self.decode(group).endswith(BAD):
                text, group = text + self.decode(group), []
        return text, group

    def token_text(self, token: int) -> str:
        return "" if token in self.ends else self.decode([token])


@dataclass
class Rules:
    gamma: float = 0.4
    k: int = 16
    max_tokens: int = 60
    max_rounds: float = math.inf
    prefix_rule: bool = True
    paper: bool = False  # repetition rules and length check of the released code
    guard: bool = True
    markers: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_on: str = "nudging"
    sentence: bool = (
        False  # an end of text counts only before a hand-over, and where a base run ends a sentence or line
    )


@dataclass
class P:
    """A piece: text, source, reason, round, base probability, base text, length."""

    text: str
    source: str
    reason: str
    round: int
    prob: float
    top: str
    n: int


class Stopped(Exception):
    pass


@dataclass
class Slow:
    base: Ref
    nudging: Ref
    rules: Rules
    out: list[P] = field(default_factory=list)
    finish: str = "length"

    @property
    def y(self) -> str:
        return "".join(p.text for p in self.out)

    @property
    def n(self) -> int:
        return sum(p.n for p in self.out)

    def ask(self, tokens):
        return self.base.next(tokens)

    def at(self, text: str):
        return self.ask(self.base.tokens(text))

    # -- text-level endings, character by character --

    def cut(self, length: int) -> None:
        """Shorten the text to ``length`` characters."""
        while self.out and len(self.y) - len(self.out[-1].text) >= length:
            self.out.pop()
        if len(self.y) > length:
            self.out[-1].text = self.out[-1].text[: length - len(self.y)]

    def write(self, piece: P, run_start: int | None = None) -> bool:
        """Append; look at every character for an ending. False if a marker cut the run."""
        old = self.y
        if not old:
            piece.text = piece.text.lstrip(" ")
        if not piece.text:
            return True
        self.out.append(piece)
        y = self.y
        for end in range(len(old) + 1, len(y) + 1):
            part = y[:end]
            stops = [s for s in self.rules.stop if part.endswith(s)]
            if stops:
                self.cut(end - max(map(len, stops)))
                self.finish = "stop_string"
                raise Stopped
            if run_start is not None:
                marks = [m for m in self.rules.markers if part.endswith(m) and end - len(m) >= run_start]
                if marks:
                    at = end - max(map(len, marks))
                    self.cut(run_start + len(part[run_start:at].rstrip()))
                    return False
            if self.rules.guard and not self.rules.paper:
                if part.endswith("\n"):
                    lines = [line for line in part[:-1].split("\n") if line.strip()]
                    last = part[:-1].rsplit("\n", 1)[-1]
                    if (
                        last.strip()
                        and len(lines) >= 3
                        and lines[-3] == lines[-2] == lines[-1]
                        and any(c.isalnum() for c in last)
                    ):
                        self.cut(end - 1)
                        self.finish = "repetition"
                        raise Stopped
                if any(part[-3 * b :] == part[-b:] * 3 for b in range(30, 401) if end >= 3 * b):
                    self.cut(end)
                    self.finish = "repetition"
                    raise Stopped
        return True

    # -- the algorithm --

    def nudge(self):
        """The nudging model's greedy completion: text, ended."""
        model, y = self.nudging, self.y
        tokens = model.tokens(y)
        new: list[int] = []
        while len(new) < self.rules.k or (len(new) < self.rules.k + 3 and model.split(new)[1]):
            token, _ = model.next(tokens + new)
            if token in model.ends:
                return self._lead(model.grown(new)), True
            new.append(token)
        return self._lead(model.grown(new)), False

    def _lead(self, text: str) -> str:
        return text if self.y else text.lstrip(" ")

    def sure(self, p) -> bool:
        return p[1] >= self.rules.gamma

    def handover(self, p, word: str) -> str | None:
        top = self.base.token_text(p[0])
        agrees = self.rules.prefix_rule and top != "" and word.startswith(top)
        if self.sure(p):
            return "handover_confident"
        return "handover_prefix" if agrees else None

    def run(self) -> Slow:
        try:
            self._run()
        except Stopped:
            pass
        return self

    def _run(self) -> None:
        r = self.rules
        round_ = 0
        why, known, base_ended = "opening", None, False
        last, repeats = "", 0
        while self.n < r.max_tokens and round_ < r.max_rounds:
            round_ += 1
            y = self.y
            c, said_end = self.nudge()
            ended = said_end and not (r.sentence and c and self.hand_over_in(c, y))
            if ended and r.stop_on == "both":
                ended = (not c and base_ended) or self.at(y + c)[0] in self.base.ends
            # split
            spaces = len(c) - len(c.lstrip(" "))
            w = c[spaces:].split(" ")
            if said_end:
                w.append("")
            prefix = lambda i: " " * spaces + " ".join(w[:i])  # noqa: E731
            hand = None
            words: list[tuple[str, str, tuple]] = []  # text so far, reason, evidence
            if c:
                first = known if known is not None else self.at(y)
                starts = [(0, "ending" if ended else why, first)]
                why, known = "lookahead_cut", None
                i = 1 if len(w) > 1 else 0
                taken = c
                if len(w) > 1:
                    taken = prefix(len(w) - 1)
                while i and i < len(w):
                    if w[i] == "":
                        why, known = "lookahead_cut", None
                        i += 1
                        continue
                    p = self.at(y + prefix(i))
                    if not ended and (reason := self.handover(p, " " + w[i])):
                        hand = (p, reason)
                        taken = prefix(i)
                        break
                    why, known = "uncertain", p
                    starts.append(
                        (
                            len(prefix(i).rstrip(" ")) if w[i - 1] == "" else len(prefix(i)),
                            "ending" if ended else "uncertain",
                            p,
                        )
                    )
                    i += 1
                starts = [s for s in starts if s[0] < len(taken)]
                ends = [s[0] for s in starts[1:]] + [len(taken)]
                words = [(taken[s[0] : e], s[1], s[2]) for s, e in zip(starts, ends, strict=True)]
            elif said_end and not ended:  # stop_on = "both"
                hand = (self.at(y), "handover_confident")
            nudge = "".join(t for t, _, _ in words)
            if r.paper and not ended:
                repeats = repeats + 1 if nudge == last else 0
                last = nudge
                if repeats >= 3:
                    self.finish = "repetition"
                    return
            if words:
                base_ended = False
            for text, reason, p in words:
                now = self.y
                n = max(0, len(self.base.tokens(now + text)) - len(self.base.tokens(now)))
                room = r.max_tokens - self.n
                if not r.paper and n > room:
                    head, whole = self.base.tokens(now), self.base.tokens(now + text)
                    fits = self.base.grown(whole[len(head) : len(head) + room]) if whole[: len(head)] == head else ""
                    if fits:
                        self.write(P(fits, "nudging", reason, round_, p[1], self.base.token_text(p[0]), room))
                    return
                self.write(P(text, "nudging", reason, round_, p[1], self.base.token_text(p[0]), n))
            if ended or (not words and hand is None):
                self.finish = "stop"
                return
            if not r.paper and self.n >= r.max_tokens:
                return
            if hand is None:
                continue
            why, known, base_ended = (self.paper_run if r.paper else self.plain_run)(hand, round_)
            if base_ended and r.stop_on == "either":
                self.finish = "stop"
                return
            if self.y == y:  # a round that adds nothing would repeat for ever
                self.finish = "stop"
                return

    def hand_over_in(self, c: str, y: str) -> bool:
        """Whether the base model would take over before any word of ``c`` but the first."""
        spaces = len(c) - len(c.lstrip(" "))
        w = c[spaces:].split(" ")
        return any(
            self.handover(self.at(y + " " * spaces + " ".join(w[:i])), " " + w[i]) for i in range(1, len(w)) if w[i]
        )

    def plain_run(self, hand, round_):
        """(why, known, base_ended) of the next round."""
        (token, prob), reason = hand
        start = self.base.tokens(self.y)
        y0 = len(self.y)
        run: list[int] = []
        done = ""
        while True:
            if token in self.base.ends:
                return "base_ended", (token, prob), True
            if self.base.grown(run) == done and not self._partial(run):
                begun, waiting = ((token, prob), reason), 0
            run.append(token)
            waiting += 1
            text, before = self.base.grown(run), done
            if not self._partial(run):
                p, why = begun
                if not self.write(
                    P(text[len(done) :], "base", why, round_, p[1], self.base.token_text(p[0]), waiting), y0
                ):
                    return "base_ended", None, True
                done, waiting = text, 0
            if self.n + waiting >= self.rules.max_tokens:
                raise Stopped
            token, prob = self.ask(start + run)
            reason = "confident"
            if not self.sure((token, prob)):
                return "uncertain", (token, prob), False
            asks = token not in self.base.ends and not waiting and self.ends_sentence(text, before)
            if asks and self.nudging.next(self.nudging.tokens(self.y))[0] in self.nudging.ends:
                self.finish = "stop"
                raise Stopped

    def ends_sentence(self, text: str, before: str) -> bool:
        """Whether the last token of a run, which took it from ``before`` to ``text``, ended a sentence or a line."""
        if not self.rules.sentence or self.rules.stop_on == "both":
            return False
        ends = self.y.rstrip()[-1:] in set(".!?\u3002\uff01\uff1f")
        new = text[len(before) :]
        return ends if new.strip() else ("\n" in new and not ends)

    def _partial(self, run) -> bool:
        return bool(self.base.split(run)[1])

    def paper_run(self, hand, round_):
        r = self.rules
        (token, prob), reason = hand
        if token in self.base.ends:
            return "base_ended", (token, prob), True
        y0 = self.y
        start = self.base.tokens(y0)
        run = [token]
        meta = [((token, prob), reason)]
        written = 0  # tokens of the run that are written, complete characters
        text_of = lambda k: self.base.grown(run[:k])  # noqa: E731

        def flush():
            nonlocal written
            k = written
            for j in range(written + 1, len(run) + 1):
                if not self._partial(run[:j]):
                    p, why = meta[k]
                    self.write(
                        P(
                            text_of(j)[len(text_of(k)) :] if k else text_of(j),
                            "base",
                            why,
                            round_,
                            p[1],
                            self.base.token_text(p[0]),
                            j - k,
                        )
                    )
                    k = j
            written = k

        flush()
        size = r.k - 1
        while self.n < r.max_tokens:
            so_far = self.y[len(y0) :]
            begin = len(run)
            at_start = stopped = None
            while len(run) - begin < size and stopped is None:
                p = self.ask(start + run)
                at_start = at_start or p
                if p[0] in self.base.ends or not self.sure(p):
                    stopped = p
                else:
                    run.append(p[0])
                    meta.append((p, "confident"))
            accepted = text_of(len(run))[len(text_of(written)) :]
            # the whole chunk, unsure tokens included
            chunk = list(run)
            while len(chunk) - begin < size:
                token, _ = self.ask(start + chunk)
                if token in self.base.ends:
                    break
                chunk.append(token)
            whole = self.base.grown(chunk)[len(text_of(written)) :]
            if size == 0:
                return "base_ended", None, False
            if len(run) > begin and (whole in so_far or (len(accepted.split(" ")) > 5 and accepted in self.y)):
                return "base_ended", at_start, False
            flush()
            if stopped is not None:
                return ("base_ended", stopped, True) if stopped[0] in self.base.ends else ("uncertain", stopped, False)
            size = r.k
        return "x", None, False
