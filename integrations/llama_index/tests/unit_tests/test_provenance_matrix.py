"""Where provenance survives: the table of the README. Each path on the real class, most over a real (tiny, random) pair of models;
scripted ones where a call, a choice or a form must be written."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, SummaryIndex, get_response_synthesizer
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.indices.prompt_helper import PromptHelper
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.selectors import LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context
from pydantic import BaseModel, Field

from llama_index.llms.nudging import (
    NudgeEndEvent,
    NudgePieceEvent,
    NudgingLLM,
    collect_provenance,
    get_pieces,
    get_provenance,
)
from nudging_llm import NudgingConfig, NudgingGenerator, Provenance
from nudging_llm.testing.comparing import timeless
from nudging_llm.testing.scripted import Script, rules, scripted_pair

#: As in the README. "yes": every call of the path, whole; of ``provenance_of``: the text that the path gives.
TABLE = """\
| path | `raw` | message | `collect_provenance` | `provenance_of` | events |
|---|---|---|---|---|---|
| `chat`, `complete`, `achat`, `acomplete` | yes | yes | yes | yes | yes |
| `stream_chat`, `stream_complete`, `astream_chat`, `astream_complete` | yes | yes | yes | yes | yes |
| `predict`, `stream`, `apredict`, `astream` | | | yes | yes | yes |
| `structured_predict`, `stream_structured_predict`, `as_structured_llm`, async twins | | | yes | | yes |
| `predict_and_call`, `apredict_and_call` | | | yes | | yes |
| query engine: `compact`, `refine`, `tree_summarize`, `simple_summarize`, `generation`; `query`, `aquery` | | | yes | yes | yes |
| query engine: `accumulate`, `compact_accumulate`; `query`, `aquery` | | | yes | yes | yes |
| query engine, `streaming=True` | | | yes | yes | yes |
| query engine with `output_cls` | | | yes | | yes |
| query engine with `structured_answer_filtering`, streaming or not; `FunctionCallingProgram` | | | yes | | yes |
| `RouterQueryEngine`, `SubQuestionQueryEngine` | | | yes | yes | yes |
| chat engine, all modes: `chat`, `stream_chat`, `achat`, `astream_chat` | | | yes | yes | yes |
| memory of a chat engine: `simple` | | yes | yes | yes | yes |
| memory of a chat engine: `context`, `condense_question`, `condense_plus_context` | | | yes | yes | yes |
| `FunctionAgent`, `ReActAgent`, `AgentWorkflow`, with nested query engines: `AgentOutput` | yes | yes | yes | yes | yes |
| agents: `AgentStream` events | yes | | yes | yes | yes |
| memory of a `FunctionAgent` | | yes | yes | yes | yes |
| memory of a `ReActAgent` | | | yes | yes | yes |
"""
HEAD, _, *ROWS = TABLE.splitlines()
COLUMNS = [cell.strip(" `") for cell in HEAD.split("|")[2:-1]]
WANTED = {
    row.split("|")[1].strip(): {
        column for column, cell in zip(COLUMNS, row.split("|")[2:-1], strict=True) if cell.strip()
    }
    for row in ROWS
}

QUESTION = "Who wrote this, and how sure were they?"
DOCUMENTS = [Document(text="The ferry leaves at 9:40. It is red."), Document(text="The museum is closed on Mondays.")]


@dataclass
class Found:
    """What a path gives.

    Attributes:
        holder: the object that ``provenance_of``, ``get_provenance`` and ``get_pieces`` are asked about.
        text: its text, as a user sees it.
        pieces: those that came while it was streamed, where they did.
        stand: how many whole answers stand in the text, where it has more than them, as labels between; else it is one.
    """

    holder: Any
    text: str
    pieces: list[Any] | None = None
    stand: int | None = None


#: Takes an LLM; gives what there is, or an awaitable of it.
Run = Callable[[NudgingLLM], "Found | Awaitable[Found]"]
#: Name → how it is run, and the row of ``TABLE`` that says what recovers it.
PATHS: dict[str, tuple[Run, str]] = {}


def path(row: str, name: str, run: Run) -> None:
    """Add a path to the row that begins so."""
    [label] = [label for label in WANTED if label.startswith(row)]
    assert name not in PATHS
    PATHS[name] = run, label


# -- the LLM itself ---------------------------------------------------------------------------------------------------


def asked(method: str, argument: Any) -> Run:
    """One of the eight methods."""

    def text_of(response: Any) -> str:
        return response.text if hasattr(response, "text") else response.message.content

    def streamed(responses: list[Any]) -> Found:
        pieces = [piece for response in responses for piece in get_pieces(response)]
        return Found(responses[-1], "".join(response.delta for response in responses), pieces)

    def run(llm: NudgingLLM) -> Any:
        found = getattr(llm, method)(argument)
        if method.startswith("stream"):
            return streamed(list(found))
        return arun(found) if method.startswith("a") else Found(found, text_of(found))

    async def arun(found: Any) -> Found:
        response = await found
        if method.startswith("astream"):
            return streamed([part async for part in response])
        return Found(response, text_of(response))

    return run


for method in ("chat", "stream_chat", "complete", "stream_complete"):
    argument = QUESTION if "complete" in method else [ChatMessage(content=QUESTION)]
    first = "`stream_chat`" if "stream" in method else "`chat`"
    path(first, method, asked(method, argument))
    path(first, f"a{method}", asked(f"a{method}", argument))

PROMPT = PromptTemplate("What of {topic}?")


async def apredict(llm: NudgingLLM) -> Found:
    text = await llm.apredict(PROMPT, topic="ferries")
    return Found(text, text)


async def astream(llm: NudgingLLM) -> Found:
    text = "".join([part async for part in await llm.astream(PROMPT, topic="ferries")])
    return Found(text, text)


path("`predict`", "predict", lambda llm: Found(text := llm.predict(PROMPT, topic="ferries"), text))
path("`predict`", "stream", lambda llm: Found(text := "".join(llm.stream(PROMPT, topic="ferries")), text))
path("`predict`", "apredict", apredict)
path("`predict`", "astream", astream)


class Trip(BaseModel):
    """A trip."""

    city: str = Field(max_length=8)
    days: int = Field(ge=1, le=9)


def structured(how: Callable[[NudgingLLM], Any]) -> Run:
    """An object, of random models that a grammar holds."""

    def run(llm: NudgingLLM) -> Any:
        found = how(llm.with_options(max_tokens=300))
        return arun(found) if inspect.isawaitable(found) else given(found)

    async def arun(found: Any) -> Found:
        return given(await found)

    def given(found: Any) -> Found:
        value = found if isinstance(found, Trip) else found.raw
        assert type(value) is Trip
        return Found(found, str(found))

    return run


async def last(stream: Awaitable[Any]) -> Any:
    return [value async for value in await stream][-1]


MESSAGE = [ChatMessage(content="Plan a trip.")]
for name, how in {
    "structured_predict": lambda llm: llm.structured_predict(Trip, PROMPT, topic="trips"),
    "astructured_predict": lambda llm: llm.astructured_predict(Trip, PROMPT, topic="trips"),
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Trip, PROMPT, topic="trips"))[-1],
    "astream_structured_predict": lambda llm: last(llm.astream_structured_predict(Trip, PROMPT, topic="trips")),
    "as_structured_llm, chat": lambda llm: llm.as_structured_llm(Trip).chat(MESSAGE),
    "as_structured_llm, achat": lambda llm: llm.as_structured_llm(Trip).achat(MESSAGE),
    "as_structured_llm, complete": lambda llm: llm.as_structured_llm(Trip).complete("Plan a trip."),
    "as_structured_llm, stream_chat": lambda llm: list(llm.as_structured_llm(Trip).stream_chat(MESSAGE))[-1],
    "as_structured_llm, astream_chat": lambda llm: last(llm.as_structured_llm(Trip).astream_chat(MESSAGE)),
}.items():
    path("`structured_predict`", name, structured(how))


def weather(city: str, days: int = 1) -> str:
    """Weather forecast for a city."""
    return f"sunny in {city} for {days} days"


TOOLS = [FunctionTool.from_defaults(weather)]


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


ROME = call("weather", '{"city": "Rome", "days": 2}')


def scripted(script: Script, opener: str = "Answer:") -> NudgingLLM:
    """In place of the random pair."""
    return NudgingLLM(generator=scripted_pair(script, NudgingConfig(max_tokens=400), opener=opener))


def called(_: NudgingLLM) -> Found:
    response = scripted(rules(("Rome", ROME))).predict_and_call(TOOLS, "Will it rain in Rome?")
    assert response.response == "sunny in Rome for 2 days"
    return Found(response, response.response)


async def acalled(_: NudgingLLM) -> Found:
    response = await scripted(rules(("Rome", ROME))).apredict_and_call(TOOLS, "Will it rain in Rome?")
    return Found(response, response.response)


path("`predict_and_call`", "predict_and_call", called)
path("`predict_and_call`", "apredict_and_call", acalled)


# -- query engines ----------------------------------------------------------------------------------------------------


def engine(llm: NudgingLLM, mode: str, small: bool = False, **options: Any) -> Any:
    """Over two documents; ``small``: longer ones, which have no room together in a prompt."""
    more = {"prompt_helper": PromptHelper(2600, 30, 0.0, tokenizer=llm.tokenizer_fn)} if small else {}
    made = get_response_synthesizer(llm=llm, response_mode=mode, **options, **more)
    documents = [Document(text=f"{document.text} " * 30) for document in DOCUMENTS] if small else DOCUMENTS
    return SummaryIndex.from_documents(documents).as_query_engine(llm=llm, response_synthesizer=made)


def answers_in(response: Any, mode: str) -> int | None:
    """How many answers an accumulating engine's response has; None of another's."""
    return len(re.findall(r"^Response \d+: ", str(response), re.MULTILINE)) if "accumulate" in mode else None


def queried(mode: str, **options: Any) -> Run:
    """``query`` of a response mode, whole or streamed."""

    def run(llm: NudgingLLM) -> Found:
        response = engine(llm, mode, **options).query(QUESTION)
        if options.get("streaming"):  # read part by part, LlamaIndex's object keeps no text
            return Found(text := "".join(response.response_gen), text)
        return Found(response, str(response), stand=answers_in(response, mode))

    return run


def printed(mode: str) -> Run:
    """A streamed response that is read at once."""

    def run(llm: NudgingLLM) -> Found:
        response = engine(llm, mode, streaming=True).query(QUESTION)
        return Found(response, str(response))

    return run


def aqueried(mode: str, **options: Any) -> Run:
    async def run(llm: NudgingLLM) -> Found:
        response = await engine(llm, mode, **options).aquery(QUESTION)
        streaming = options.get("streaming")
        text = "".join([part async for part in response.async_response_gen()]) if streaming else str(response)
        return Found(response, text, stand=answers_in(response, mode))

    return run


WHOLE = ("compact", "refine", "tree_summarize", "simple_summarize", "generation")
MANY = ("accumulate", "compact_accumulate")
for mode in (*WHOLE, *MANY):
    row = "query engine: `accumulate`" if mode in MANY else "query engine: `compact`"
    path(row, f"{mode}, query", queried(mode))
    path(row, f"{mode}, aquery", aqueried(mode))
    if mode in WHOLE:
        path("query engine, `streaming", f"{mode}, streaming query", queried(mode, streaming=True))
        path("query engine, `streaming", f"{mode}, streaming query, str", printed(mode))
        path("query engine, `streaming", f"{mode}, streaming aquery", aqueried(mode, streaming=True))
    if mode not in ("simple_summarize", "generation"):  # one prompt, whatever stands in it
        path(row, f"{mode}, query, several prompts", queried(mode, small=True))
    if mode in ("tree_summarize", *MANY):
        path(row, f"{mode}, query, several at once", queried(mode, small=True, use_async=True))
        path(row, f"{mode}, aquery, several at once", aqueried(mode, small=True, use_async=True))
for mode in ("compact", "refine", "tree_summarize"):
    path(
        "query engine, `streaming",
        f"{mode}, streaming query, several prompts",
        queried(mode, small=True, streaming=True),
    )


def of_class(mode: str) -> Run:
    def run(llm: NudgingLLM) -> Found:
        response = engine(llm.with_options(max_tokens=300), mode, output_cls=Trip).query("Plan a trip.")
        assert type(response.response) is Trip
        return Found(response, str(response))

    return run


async def of_class_async(llm: NudgingLLM) -> Found:
    response = await engine(llm.with_options(max_tokens=300), "compact", output_cls=Trip).aquery("Plan a trip.")
    assert type(response.response) is Trip
    return Found(response, str(response))


for mode in ("compact", "refine", "tree_summarize"):
    path("query engine with `output", f"output_cls, {mode}", of_class(mode))
path("query engine with `output", "output_cls, compact, aquery", of_class_async)


def filtering(mode: str, streaming: bool) -> Run:
    """The engine asks whether the context answers the question, and shows the answer if it does."""
    script = rules(
        otherwise=call("StructuredRefineResponse", '{"query_satisfied": true, "answer": "At twenty to ten."}')
    )

    def made() -> Any:
        return engine(scripted(script), mode, streaming=streaming, structured_answer_filtering=True)

    def run(_: NudgingLLM) -> Found:
        response = made().query(QUESTION)
        text = "".join(response.response_gen) if streaming else str(response)
        assert text == "At twenty to ten."
        return Found(response, text)

    return run


for mode in ("compact", "refine"):
    path("query engine with `structured", f"filtering, {mode}", filtering(mode, False))
    path("query engine with `structured", f"filtering, {mode}, streaming", filtering(mode, True))


def programmed(how: Callable[[FunctionCallingProgram], Any]) -> Run:
    """An object that one of LlamaIndex's programs makes, of random models."""

    def made(llm: NudgingLLM) -> FunctionCallingProgram:
        longer = llm.with_options(max_tokens=300)
        return FunctionCallingProgram.from_defaults(Trip, prompt_template_str="Plan {what}.", llm=longer)

    def run(llm: NudgingLLM) -> Any:
        found = how(made(llm))
        return arun(found) if inspect.isawaitable(found) else given(found)

    async def arun(found: Any) -> Found:
        return given(await found)

    def given(found: Any) -> Found:
        assert type(found) is Trip
        return Found(found, str(found))

    return run


for name, how in {
    "call": lambda program: program(what="a trip"),
    "acall": lambda program: program.acall(what="a trip"),
    "stream_call": lambda program: list(program.stream_call(what="a trip"))[-1],
    "astream_call": lambda program: last(program.astream_call(what="a trip")),
}.items():
    path("query engine with `structured", f"program, {name}", programmed(how))

ENGINE_SCRIPT = rules(
    ("red.*Sub question|Sub question.*red", "It is red, and leaves at 9:40."),
    ("Which colour", "It is red."),
    ("Who wrote", "Nobody knows."),
)


def tools_of(llm: NudgingLLM) -> list[QueryEngineTool]:
    return [
        QueryEngineTool.from_defaults(engine(llm, "compact"), name=name, description=f"The {name}.")
        for name in ("ferries", "museums")
    ]


def choosing(answer: str) -> NudgingLLM:
    def script(prompt: str) -> str:
        return answer if "choices" in prompt else ENGINE_SCRIPT(prompt)

    return scripted(script)


LISTED = '[{"choice": 1, "reason": "it is about ferries"}]'
SELECTED = call("SingleSelection", '{"index": 1, "reason": "it is about ferries"}')


def router(pydantic: bool) -> Any:
    llm = choosing(SELECTED if pydantic else LISTED)
    selector = (PydanticSingleSelector if pydantic else LLMSingleSelector).from_defaults(llm=llm)
    return RouterQueryEngine(selector=selector, query_engine_tools=tools_of(llm), llm=llm)


def routed(pydantic: bool) -> Run:
    def run(_: NudgingLLM) -> Found:
        response = router(pydantic).query(QUESTION)
        assert str(response) == "Nobody knows."
        return Found(response, str(response))

    return run


async def arouted(_: NudgingLLM) -> Found:
    response = await router(True).aquery(QUESTION)
    return Found(response, str(response))


SUBS = (
    '```json\n{"items": [{"sub_question": "Which colour?", "tool_name": "ferries"}, '
    '{"sub_question": "Who wrote that?", "tool_name": "museums"}]}\n```'
)


def sub_questions(use_async: bool) -> Any:
    def script(prompt: str) -> str:
        return SUBS if "sub_question" in prompt else ENGINE_SCRIPT(prompt)

    llm = scripted(script)
    return SubQuestionQueryEngine.from_defaults(
        tools_of(llm),
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        verbose=False,
        use_async=use_async,
    )


def divided(use_async: bool) -> Run:
    def run(_: NudgingLLM) -> Found:
        response = sub_questions(use_async).query(QUESTION)
        assert len(response.source_nodes) > 2
        return Found(response, str(response))

    return run


async def adivided(_: NudgingLLM) -> Found:
    response = await sub_questions(True).aquery(QUESTION)
    return Found(response, str(response))


path("`RouterQueryEngine`", "router, by text", routed(False))
path("`RouterQueryEngine`", "router, by a call", routed(True))
path("`RouterQueryEngine`", "router, aquery", arouted)
path("`RouterQueryEngine`", "sub-questions, one by one", divided(False))
path("`RouterQueryEngine`", "sub-questions, at once", divided(True))
path("`RouterQueryEngine`", "sub-questions, aquery", adivided)


# -- chat engines -----------------------------------------------------------------------------------------------------


def chat_engine(llm: NudgingLLM, mode: str) -> Any:
    """In the middle of a conversation."""
    before = [ChatMessage(content="Hello."), ChatMessage(role="assistant", content="Hello, you.")]
    return SummaryIndex.from_documents(DOCUMENTS).as_chat_engine(mode, llm=llm, chat_history=before)


def chatted(mode: str, method: str, memory: bool) -> Run:
    def given(made: Any, response: Any, text: str) -> Found:
        assert len(made.chat_history) == 4
        message = made.chat_history[-1]
        return Found(message, message.content or "") if memory else Found(response, text)

    def run(llm: NudgingLLM) -> Any:
        made = chat_engine(llm, mode)
        if method.startswith("a"):
            return arun(made)
        response = getattr(made, method)(QUESTION)
        if method == "stream_chat":
            "".join(response.response_gen)
        return given(made, response, str(response))

    async def arun(made: Any) -> Found:
        response = await getattr(made, method)(QUESTION)
        if method == "astream_chat":
            "".join([part async for part in response.async_response_gen()])
        return given(made, response, str(response))

    return run


for mode in ("simple", "context", "condense_question", "condense_plus_context"):
    for method in ("chat", "stream_chat", "achat", "astream_chat"):
        path("chat engine, all modes", f"{mode}, {method}", chatted(mode, method, memory=False))
        row = f"memory of a chat engine: `{'simple' if mode == 'simple' else 'context'}`"
        path(row, f"{mode}, {method}, memory", chatted(mode, method, memory=True))


# -- agents -----------------------------------------------------------------------------------------------------------

AGENT = rules(("sunny in", "It is sunny."), ("Rome", f"Let me see. {ROME}"))
REACT = rules(
    ("Observation: sunny", "Thought: I can answer.\nAnswer: It is sunny in Rome."),
    otherwise='Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Rome", "days": 2}',
)
OUTPUT, EVENTS = "`FunctionAgent`, `ReActAgent`", "agents: `AgentStream`"


def agent(kind: str, llm: NudgingLLM, streaming: bool) -> tuple[Any, str]:
    """An agent and a question to it: over the random pair (``llm``), or over scripted models."""
    if kind == "random function agent":
        return FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming), QUESTION
    if kind == "react agent":
        made = ReActAgent(tools=TOOLS, llm=scripted(REACT, opener="Answer now:"), streaming=streaming)
    else:
        made = FunctionAgent(tools=TOOLS, llm=scripted(AGENT), streaming=streaming)
    return AgentWorkflow(agents=[made]) if kind == "workflow" else made, "Will it rain in Rome?"


def ran(kind: str, wanted: str, streaming: bool = True) -> Run:
    async def run(llm: NudgingLLM) -> Found:
        made, question = agent(kind, llm, streaming)
        memory = Memory.from_defaults(token_limit=10000, tokenizer_fn=llm.tokenizer_fn)
        handler = made.run(question, memory=memory, ctx=Context(made))
        events = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        output = await handler
        if not kind.startswith("random"):
            assert [made.tool_output.content for made in output.tool_calls] == ["sunny in Rome for 2 days"]
        if wanted == "memory":
            message = (await memory.aget_all())[-1]  # of a ReAct agent: all of its thoughts, in LlamaIndex's words
            return Found(message, message.content or "", stand=1 if kind == "react agent" else None)
        if wanted == "output":
            return Found(output, str(output))
        final = events[-1]
        start = max((i + 1 for i, event in enumerate(events[:-1]) if get_provenance(event)), default=0)
        pieces = [piece for event in events[start:] for piece in get_pieces(event)]
        return Found(final, final.response, pieces)

    return run


for kind in ("random function agent", "function agent", "workflow"):
    path(OUTPUT, f"{kind}, output", ran(kind, "output"))
    path(OUTPUT, f"{kind}, output, not streaming", ran(kind, "output", streaming=False))
    path(EVENTS, f"{kind}, events", ran(kind, "events"))
    path("memory of a `FunctionAgent`", f"{kind}, memory", ran(kind, "memory"))
path(OUTPUT, "react agent, output", ran("react agent", "output"))
path(OUTPUT, "react agent, output, not streaming", ran("react agent", "output", streaming=False))
path(EVENTS, "react agent, events", ran("react agent", "events"))
path("memory of a `ReActAgent`", "react agent, memory", ran("react agent", "memory"))


async def nested(_: NudgingLLM) -> Found:
    """Of three calls, the one in the middle is the nested engine's."""

    def script(prompt: str) -> str:
        if "Nobody knows." in prompt:
            return "I asked: nobody does."
        return "Nobody knows." if "Context information" in prompt else call("ferries", '{"input": "Who wrote this?"}')

    llm = scripted(script)
    output = await FunctionAgent(tools=tools_of(llm)[:1], llm=llm).run(QUESTION)
    assert [made.tool_output.content for made in output.tool_calls] == ["Nobody knows."]
    inner = output.tool_calls[0].tool_output.raw_output
    found = llm.provenance_of(inner)
    assert found is not None and found.text == "Nobody knows." == found.provenance.text
    assert str(output) == "I asked: nobody does."
    return Found(output, str(output))


path(OUTPUT, "an agent with a nested query engine", nested)


# -- what recovers them -----------------------------------------------------------------------------------------------


class Heard(BaseEventHandler):
    """All events of one kind or the other."""

    pieces: list[Any] = []
    ends: list[Any] = []

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, NudgePieceEvent):
            self.pieces.append(event)
        elif isinstance(event, NudgeEndEvent):
            self.ends.append(event)


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(pieces=[], ends=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[NudgingGenerator, Any, dict[str, Any]]]]:
    """Grows by one whenever the core is asked, with what it is asked."""
    seen: list[tuple[NudgingGenerator, Any, dict[str, Any]]] = []
    for method in ("stream", "astream"):
        real = getattr(NudgingGenerator, method)

        def noted(self: NudgingGenerator, messages: Any, *, real: Any = real, **options: Any) -> Any:
            seen.append((self, messages, options))
            return real(self, messages, **options)

        monkeypatch.setattr(NudgingGenerator, method, noted)
    return seen


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[NudgingLLM]]:
    """All LLMs that were made, scripted ones last."""
    made: list[NudgingLLM] = []
    real = NudgingLLM.model_post_init

    def noted(self: NudgingLLM, context: Any, /) -> None:
        real(self, context)
        made.append(self)

    monkeypatch.setattr(NudgingLLM, "model_post_init", noted)
    return lambda: made


def key(record: Provenance) -> Any:
    """What of a record is the same whenever it is written."""
    return record.text, timeless(record.pieces), record.config, record.finish_reason, record.rounds


def same(found: list[Provenance], expected: list[Provenance]) -> bool:
    """Whether these are the same records, in any order."""
    left = [key(record) for record in expected]
    for record in found:
        if (each := key(record)) not in left:
            return False
        left.remove(each)
    return not left


def check_offsets(text: str, pieces: Any) -> None:
    end = 0
    for piece in pieces:
        assert piece.text and piece.start >= end
        end = piece.start + len(piece.text)
        assert text[piece.start : end] == piece.text


def has_id(holder: Any) -> bool:
    parts = [holder, getattr(holder, "message", None), getattr(holder, "response", None)]
    return any("nudging_id" in (getattr(part, "additional_kwargs", None) or {}) for part in parts)


@pytest.mark.parametrize("name", PATHS)
def test_provenance_survives(
    name: str,
    settings: NudgingLLM,
    heard: Heard,
    requests: list[tuple[NudgingGenerator, Any, dict[str, Any]]],
    looked_up: Callable[[], list[NudgingLLM]],
) -> None:
    run, row = PATHS[name]

    async def waited(found: Awaitable[Found]) -> Found:
        return await found

    with collect_provenance() as calls:
        found = run(settings)
        if not isinstance(found, Found):
            found = asyncio.run(waited(found))
    expected = [core.generate(messages, **options).provenance for core, messages, options in list(requests)]
    assert all(record.text for record in expected) and len(expected) >= (2 if "several" in name else 1)
    recovered = set()

    record = get_provenance(found.holder)
    if record is not None:
        assert key(record) in [key(each) for each in expected]
        streamed = getattr(found.holder, "delta", None) is not None  # its pieces have come already
        assert timeless(get_pieces(found.holder)) == ([] if streamed else timeless(record.pieces))
        recovered.add("raw")
        if found.pieces is not None:
            assert timeless(found.pieces) == timeless(record.pieces)
    if has_id(found.holder):
        recovered.add("message")

    for one in calls:
        assert one.provenance is not None and one.error is None
        assert timeless(one.pieces) == timeless(one.provenance.pieces) and one.text == one.provenance.text
    if same(calls.provenances, expected):
        recovered.add("collect_provenance")

    llm = (looked_up() or [settings])[-1]
    of_text = llm.provenance_of(found.holder)
    if of_text is not None:
        recovered.add("provenance_of")
        assert of_text.text == found.text and of_text.provenance == of_text.records[-1]
        check_offsets(of_text.text, of_text.pieces)
        joined = "".join(piece.text for piece in of_text.pieces)
        assert all(key(each) in [key(other) for other in expected] for each in of_text.records)
        if found.stand is not None:
            assert joined == "".join(each.text.strip() for each in of_text.records)
            assert len(of_text.records) == found.stand
        else:
            assert joined == found.text and len(of_text.records) == 1
        if found.text == of_text.provenance.text:
            assert timeless(of_text.pieces) == timeless(of_text.provenance.pieces)

    by_id = {end.nudging_id: "" for end in heard.ends}
    for event in heard.pieces:
        by_id[event.nudging_id] += event.piece["text"]
    if sorted(by_id.values()) == sorted(record.text for record in expected):
        recovered.add("events")

    assert recovered == WANTED[row]


def test_every_row_has_paths() -> None:
    assert list(dict.fromkeys(WANTED)) == [row for row in WANTED if row in {label for _, label in PATHS.values()}]


def test_both_models_write_in_the_random_pair(generator: NudgingGenerator) -> None:
    pieces = generator.generate(QUESTION).provenance.pieces
    assert {piece.source for piece in pieces} == {"base", "nudging"}


def test_the_readme_has_this_table() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert TABLE in readme
