"""Tools: called freely, or because one must be, or not at all; results come back; what is no call is no call."""

from __future__ import annotations

import pytest

from nudging_llm import NudgingGenerator, ToolError
from nudging_llm.testing.scripted import rules, scripted_pair, tool_call

from .asking import Watch, asked, user
from .layers import Layer


def weather(city: str, days: int = 1) -> str:
    """Weather forecast for a city."""
    return f"sunny in {city} for {days} days"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


TOOLS = [weather, add]
ROME = ("weather", {"city": "Rome", "days": 2})
SUM = ("add", {"a": 1, "b": 2})
MOON = '[TOOL_CALLS] [{"name": "get_moon", "arguments": {"phase": 1}}]'
SCRIPT = rules(
    ("sunny in", "It is sunny."),
    ("both", f"{tool_call('weather', city='Rome', days=2)}\n{tool_call('add', a=1, b=2)}"),
    ("see first", f"Let me see.\n{tool_call('weather', city='Rome', days=2)}"),
    ("Rome", tool_call("weather", city="Rome", days=2)),
    ("東京", tool_call("weather", city="東京")),
    ("brackets", "Let me <tool, [1] and {see}: 東京🙂."),
    ("sun and moon", '{"name": "get_moon", "arguments": {}}'),
)


@pytest.fixture
def scripted() -> NudgingGenerator:
    return scripted_pair(SCRIPT)


@pytest.mark.parametrize(
    ("question", "text", "calls"),
    [
        ("Rome", "", [ROME]),
        ("both", "", [ROME, SUM]),
        ("see first", "Let me see.", [ROME]),
        ("東京", "", [("weather", {"city": "東京"})]),
        ("Good morning.", "Hello! How can I help you today?", []),
        ("brackets", "Let me <tool, [1] and {see}: 東京🙂.", []),
        ("sun and moon", '{"name": "get_moon", "arguments": {}}', []),
    ],
)
async def test_the_models_may_call_or_not(
    layer: type[Layer], way: str, scripted: NudgingGenerator, question: str, text: str, calls: list[object]
) -> None:
    found = await asked(layer(scripted), way, user(question), tools=TOOLS)
    assert (found.text.strip(), found.calls) == (text, calls)
    assert found.record is not None and "".join(piece.text for piece in found.pieces) == found.record.text


async def test_several_calls_only_where_they_may_be(layer: type[Layer], way: str, scripted: NudgingGenerator) -> None:
    found = await asked(layer(scripted), way, user("both"), tools=TOOLS, parallel_tool_calls=False)
    assert found.calls == [ROME]


async def test_a_call_that_must_be_is_one(layer: type[Layer], way: str, random_pair: NudgingGenerator) -> None:
    """Random models, held by the grammar."""
    model = layer(random_pair, max_tokens=100)
    found = await asked(model, way, user("Good morning."), tools=[add, double], tool_choice="required")
    assert found.text == "" and found.calls and found.calls[0][0] in ("add", "double")
    found = await asked(model, way, user("Good morning."), tools=[add, double], tool_choice="add")
    [(name, arguments)] = found.calls
    assert name == "add" and {type(value) for value in arguments.values()} == {int}


async def test_no_call_where_none_may_be(layer: type[Layer], way: str, scripted: NudgingGenerator) -> None:
    found = await asked(layer(scripted), way, user("Good morning."), tools=TOOLS, tool_choice="none")
    assert not found.calls and found.text == "Hello! How can I help you today?"


async def test_a_choice_of_no_tool_is_refused(layer: type[Layer], way: str, scripted: NudgingGenerator) -> None:
    watch = Watch(scripted)
    with pytest.raises(ToolError, match="Did you mean 'weather'"):
        await asked(layer(scripted), way, user("Rome"), tools=TOOLS, tool_choice="wether")
    assert not watch.forwards


async def test_the_prompts_show_the_tools(layer: type[Layer], way: str, scripted: NudgingGenerator) -> None:
    watch = Watch(scripted)
    await asked(layer(scripted), way, user("Good morning."), tools=TOOLS)
    assert watch.forwards
    assert all("weather" in row and "Weather forecast for a city." in row for rows in watch.forwards for row in rows)


async def test_a_result_is_read(layer: type[Layer], way: str, scripted: NudgingGenerator) -> None:
    calls = [{"id": "call-1", "name": "weather", "arguments": {"city": "Rome", "days": 2}}]
    conversation = [
        *user("Will it rain?"),
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call-1", "content": "sunny in Rome for 2 days"},
    ]
    watch = Watch(scripted)
    found = await asked(layer(scripted), way, conversation, tools=TOOLS)
    assert found.text == "It is sunny." and not found.calls
    assert all("sunny in Rome for 2 days" in row for rows in watch.forwards for row in rows)
