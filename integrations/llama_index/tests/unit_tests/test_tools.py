"""Tools, agents and structured output: scripted models for what must be decided right, random ones for what must hold anyway."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, SummaryIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import UUID4, BaseModel, Field, HttpUrl, field_validator

from llama_index.llms.nudging import NudgingLLM, collect_provenance, get_pieces
from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.testing.scripted import Script, rules, scripted_pair


def weather(city: str, days: int = 1) -> str:
    """Weather forecast for a city."""
    return f"sunny in {city} for {days} days"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(add)]


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


ROME = call("weather", '{"city": "Rome", "days": 2}')
SUM = call("add", '{"a": 1, "b": 2}')
SCRIPT = rules(
    ("sunny in", "It is sunny."),
    (r"(result|tool)\W+3\b", "It is three."),
    ("both", f"{ROME}\n{SUM}"),
    ("Let me see", f"Let me see. {ROME}"),
    ("[Rr]ome", ROME),
    ("broken", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": }}]'),
    ("1 and 2", SUM),
)


def scripted(script: Script = SCRIPT, opener: str = "Answer:", **options: Any) -> NudgingLLM:
    return NudgingLLM(generator=scripted_pair(script, NudgingConfig(max_tokens=400), opener=opener), **options)


async def whole(llm: NudgingLLM, way: str, message: str, **options: Any) -> tuple[ChatResponse, str]:
    """The last response, and the deltas joined, asked in one of four ways."""
    asked = getattr(llm, f"{way}_with_tools")(TOOLS, message, **options)
    if way == "chat":
        return asked, asked.message.content or ""
    if way == "stream_chat":
        responses = list(asked)
    elif way == "achat":
        response = await asked
        return response, response.message.content or ""
    else:
        responses = [response async for response in await asked]
    return responses[-1], "".join(response.delta for response in responses)


each_way = pytest.mark.parametrize("way", ["chat", "stream_chat", "achat", "astream_chat"])


def selected(llm: NudgingLLM, response: ChatResponse) -> list[tuple[str, dict[str, Any]]]:
    found = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    assert all(isinstance(selection, ToolSelection) and selection.tool_id for selection in found)
    assert len({selection.tool_id for selection in found}) == len(found)
    return [(selection.tool_name, selection.tool_kwargs) for selection in found]


@each_way
async def test_the_models_may_call_or_not(way: str) -> None:
    llm = scripted()
    response, text = await whole(llm, way, "Will it rain in Rome?")
    assert selected(llm, response) == [("weather", {"city": "Rome", "days": 2})]
    assert text == "" and response.message.content is None
    assert response.raw["finish_reason"] == "tool_calls"
    response, text = await whole(llm, way, "Good morning.")
    assert selected(llm, response) == [] and text == response.message.content == "Hello! How can I help you today?"
    with pytest.raises(ValueError, match="Expected a tool call; the answer has none: 'Hello!"):
        llm.get_tool_calls_from_response(response)


@each_way
async def test_what_was_meant_as_a_call_and_is_none_is_text(way: str) -> None:
    llm = scripted()
    response, text = await whole(llm, way, "broken")
    assert selected(llm, response) == []
    assert text == response.message.content and '"city": }' in text


def test_no_tools_are_no_tools() -> None:
    assert scripted().chat_with_tools([], "Good morning.").message.content == "Hello! How can I help you today?"


def test_streamed_calls_come_in_parts() -> None:
    responses = list(scripted().stream_chat_with_tools(TOOLS, "Will it rain in Rome?"))
    deltas = [delta for response in responses for delta in response.additional_kwargs.get("tool_call_deltas", ())]
    assert (deltas[0]["name"], {delta["index"] for delta in deltas}) == ("weather", {0})
    assert "".join(delta["arguments"] for delta in deltas) == '{"city": "Rome", "days": 2}'
    pieces = [piece for response in responses[:-1] for piece in get_pieces(response)]
    assert "".join(piece.text for piece in pieces) == ROME
    assert all(response.raw["nudging"]["piece"]["channel"] == "tool_call" for response in responses[:-1])


def test_predict_and_call() -> None:
    llm = scripted()
    assert str(llm.predict_and_call(TOOLS, "Will it rain in Rome?")) == "sunny in Rome for 2 days"
    assert str(llm.predict_and_call(TOOLS, "both", allow_parallel_tool_calls=True)) == "sunny in Rome for 2 days\n\n3"


async def test_predict_and_call_async() -> None:
    assert str(await scripted().apredict_and_call(TOOLS, "What are 1 and 2 together?")) == "3"


# -- agents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_calls_and_answers(streaming: bool) -> None:
    llm = scripted(system_prompt="Be kind.")
    agent = FunctionAgent(tools=TOOLS, llm=llm, streaming=streaming, system_prompt="You know the weather.")
    with collect_provenance() as calls:
        handler = agent.run("Will it rain in Rome?")
        events = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        output = await handler
    assert str(output) == "It is sunny."
    assert [made.tool_output.content for made in output.tool_calls] == ["sunny in Rome for 2 days"]
    assert len(calls) == 2 and calls.last is not None and calls.last.text == "It is sunny."
    if streaming:
        assert "".join(event.delta for event in events) == "It is sunny."
        assert "".join(piece.text for event in events for piece in get_pieces(event) if event.delta) == "It is sunny."


async def test_an_agent_workflow_hands_over() -> None:
    handoff = call("handoff", '{"to_agent": "adder", "reason": "sums"}')

    def by_agent(prompt: str) -> str:
        if "You add." in prompt:
            return "It is three." if re.search(r"(result:|tool_response>)\s*3", prompt) else SUM
        return handoff

    llm = scripted(by_agent)
    greeter = FunctionAgent(
        name="greeter", description="Greets.", tools=[], llm=llm, system_prompt="You greet.", can_handoff_to=["adder"]
    )
    adder = FunctionAgent(name="adder", description="Adds.", tools=TOOLS[1:], llm=llm, system_prompt="You add.")
    output = await AgentWorkflow(agents=[greeter, adder], root_agent="greeter").run("What are 1 and 2 together?")
    assert str(output) == "It is three." and output.current_agent_name == "adder"


REACT = rules(
    ("Observation: sunny", "Thought: I can answer.\nAnswer: It is sunny in Rome."),
    otherwise=(
        'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Rome", "days": 2}\n'
        "Observation: snow in Rome\nThought: I can answer.\nAnswer: It snows."
    ),
)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_invents_no_observation(streaming: bool) -> None:
    llm = scripted(REACT, opener="Answer now:")
    agent = ReActAgent(tools=TOOLS, llm=llm, streaming=streaming)
    with collect_provenance() as calls:
        output = await agent.run("Will it rain in Rome?")
    assert str(output) == "It is sunny in Rome."
    assert [made.tool_output.content for made in output.tool_calls] == ["sunny in Rome for 2 days"]
    assert [("Observation" in record.text) for record in calls.provenances] == [False, False]
    found = llm.provenance_of(output)
    assert found is not None and found.text == "It is sunny in Rome."
    assert "".join(piece.text for piece in found.pieces) == found.text


def test_a_stop_of_the_callers_own_is_enough_for_react() -> None:
    from llama_index.core.agent.react.formatter import ReActChatFormatter

    llm = scripted(REACT, opener="Answer now:")
    prompt = ReActChatFormatter().format(TOOLS, [ChatMessage(content="Will it rain?")])
    assert (llm.chat(prompt).message.content or "").endswith('"days": 2}')
    assert (llm.chat(prompt, stop=["Action"]).message.content or "").rstrip() == "Thought: I need a tool."
    assert "Answer:" in (llm.chat([*prompt, ChatMessage(content="Observation: sunny")]).message.content or "")
    assert (llm.with_options(stop="Input").chat(prompt).message.content or "").endswith("Action ")


# -- structured output ------------------------------------------------------------------------------------------------


class Stop(BaseModel):
    """A place on the way."""

    city: str
    nights: int = Field(ge=0, le=30)


class Trip(BaseModel):
    """A trip."""

    name: str = Field(description="what it is called", max_length=20)
    stops: list[Stop] = Field(max_length=2)


WANTED = Trip(name="Spring", stops=[Stop(city="Rome", nights=2), Stop(city="Bari", nights=1)])
TRIP = call("Trip", json.dumps(WANTED.model_dump()))
PROMPT = PromptTemplate("Plan a {kind} trip.")


class Seen(BaseEventHandler):
    """The names of all events."""

    names: list[str] = []

    @classmethod
    def class_name(cls) -> str:
        return "Seen"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.names.append(event.class_name())


@pytest.fixture
def events() -> Any:
    handler, root = Seen(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler.names
    root.event_handlers.remove(handler)


async def test_structured_prediction(events: list[str]) -> None:
    llm = scripted(rules(("spring", TRIP)))
    with collect_provenance() as calls:
        assert llm.structured_predict(Trip, PROMPT, kind="spring") == WANTED
        assert await llm.astructured_predict(Trip, PROMPT, {"max_tokens": 300}, kind="spring") == WANTED
    assert [record.text for record in calls.provenances] == [TRIP, TRIP]
    wanted = ["LLMStructuredPredictStartEvent", "LLMChatStartEvent", "LLMChatEndEvent", "LLMStructuredPredictEndEvent"]
    assert [name for name in events if name in wanted] == wanted * 2


def test_the_objects_of_a_program_grow() -> None:
    """LlamaIndex's own class, which engines use, too; a prompt forces the call, in free choice as well."""
    program = FunctionCallingProgram.from_defaults(
        Trip, prompt_template_str="Plan {kind}.", llm=scripted(rules(("spring", TRIP)))
    )
    found = list(program.stream_call(kind="spring"))
    assert found[-1] == WANTED == program(kind="spring")
    stops = [len(getattr(value, "stops", None) or ()) for value in found]
    assert stops == sorted(stops) and {0, 1, 2} <= set(stops)


class Priced(BaseModel):
    """A thing and its price."""

    price: Decimal
    sizes: list[float]
    link: HttpUrl
    id: UUID4
    lasts: timedelta
    rooms: dict[int, str]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_models_meet_types_that_check_more_than_their_schema(llm: NudgingLLM, seed: int) -> None:
    found = llm.with_options(max_tokens=500, temperature=1.5, seed=seed).structured_predict(Priced, PROMPT, kind="odd")
    assert found.price.is_finite() and all(map(math.isfinite, found.sizes))


async def test_objects_grow(events: list[str]) -> None:
    llm = scripted(rules(("spring", TRIP)))
    found = list(llm.stream_structured_predict(Trip, PROMPT, kind="spring"))
    assert found[-1] == WANTED and len(found) > 5
    stops = [len(value.stops or ()) for value in found]
    assert stops == sorted(stops) and {0, 1, 2} <= set(stops)
    again = [value async for value in await llm.astream_structured_predict(Trip, PROMPT, kind="spring")]
    assert [value.model_dump() for value in again] == [value.model_dump() for value in found]
    assert events.count("LLMStructuredPredictInProgressEvent") == 2 * len(found)
    assert events.count("LLMChatEndEvent") == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_random_models_fit_the_schema(llm: NudgingLLM, seed: int) -> None:
    longer = llm.with_options(max_tokens=400, temperature=1.5, seed=seed)
    ways: list[Callable[[], Any]] = [
        lambda: longer.structured_predict(Trip, PROMPT, kind="odd"),
        lambda: list(longer.stream_structured_predict(Trip, PROMPT, kind="odd"))[-1],
        lambda: longer.as_structured_llm(Trip).chat([ChatMessage(content="Plan.")]).raw,
        lambda: longer.as_structured_llm(Trip).complete("Plan.").raw,
        lambda: list(longer.as_structured_llm(Trip).stream_chat([ChatMessage(content="Plan.")]))[-1].raw,
    ]
    assert all(type(way()) is Trip for way in ways)
    stream = await longer.as_structured_llm(Trip).astream_chat([ChatMessage(content="Plan.")])
    last = [response async for response in stream][-1]
    assert type(last.raw) is Trip and Trip.model_validate_json(last.message.content or "") == last.raw


@pytest.fixture
def engine(settings: NudgingLLM) -> Callable[..., Any]:
    """Makes a query engine over two documents."""
    llm = settings.with_options(max_tokens=400)
    index = SummaryIndex.from_documents([Document(text="Rome in spring."), Document(text="Bari too.")])
    return lambda **options: index.as_query_engine(llm=llm, **options)


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
async def test_a_query_engine_with_an_output_class(engine: Callable[..., Any], mode: str) -> None:
    asked = engine(output_cls=Trip, response_mode=mode)
    for response in (asked.query("Plan a trip."), await asked.aquery("Plan a trip.")):
        assert type(response.response) is Trip


class Short(BaseModel):
    """An answer."""

    answer: str = Field(max_length=20)


@pytest.mark.parametrize("mode", ["compact", "refine"])
def test_a_streaming_query_engine_with_an_output_class(engine: Callable[..., Any], mode: str) -> None:
    """LlamaIndex streams the field ``answer`` here, whole and no other; in the mode tree_summarize it forgets the class."""
    response = engine(output_cls=Short, response_mode=mode, streaming=True).query("Plan a trip.")
    [part] = response.response_gen
    assert isinstance(part, str) and len(part) <= 20


async def test_a_function_agent_with_an_output_class() -> None:
    def script(prompt: str) -> str:
        return TRIP if "what it is called" in prompt else "I planned it."

    agent = FunctionAgent(tools=TOOLS, llm=scripted(script), output_cls=Trip)
    output = await agent.run("Plan a trip.")
    assert output.structured_response == WANTED.model_dump()


class Even(BaseModel):
    """An even number."""

    number: int

    @field_validator("number")
    @classmethod
    def _even(cls, number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number


def test_a_validator_of_ones_own_may_still_refuse() -> None:
    llm = scripted(rules(otherwise=call("Even", '{"number": 3}')))
    with pytest.raises(ValueError, match="which says less than the class checks"):
        llm.structured_predict(Even, PromptTemplate("A number."))
    with pytest.raises(ValueError, match="which says less than the class checks"):
        list(llm.stream_structured_predict(Even, PromptTemplate("A number.")))
    assert llm.complete("A number.").text


def test_llamaindexs_own_way_by_text_is_there_too() -> None:
    llm = scripted(rules(otherwise='{"number": 4}'), pydantic_program_mode=PydanticProgramMode.LLM)
    assert llm.structured_predict(Even, PromptTemplate("A number.")) == Even(number=4)


def test_a_chat_prompt_and_the_system_prompt_go_in_once(generator: NudgingGenerator) -> None:
    prompts: list[str] = []

    def script(prompt: str) -> str:
        prompts.append(prompt)
        return call("Even", '{"number": 4}')

    llm = scripted(script, system_prompt="Be kind.")
    template = ChatPromptTemplate([ChatMessage(role="system", content="Count."), ChatMessage(content="A {what}.")])
    assert llm.structured_predict(Even, template, what="number") == Even(number=4)
    assert {prompt.count("Be kind.") for prompt in prompts} == {1} == {prompt.count("Count.") for prompt in prompts}
