"""Agents with structured answers on the starter pair: they end, with both of LangChain's strategies."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_nudging import ChatNudging, get_provenances

pytestmark = pytest.mark.real


class Weather(BaseModel):
    """Weather in a city."""

    city: str = Field(max_length=20)
    degrees: int


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize(
    ("strategy", "tools"),
    [
        (ToolStrategy, []),
        (ToolStrategy, [add]),
        (ProviderStrategy, []),
    ],  # free to call a tool, this pair never stops calling
    ids=["by a call", "by a call, beside a tool", "as text"],
)
def test_an_agent_with_a_structured_answer_ends(starter: ChatNudging, strategy: Any, tools: list[Any]) -> None:
    model = starter.model_copy(update={"max_tokens": 96})
    agent = create_agent(model, tools, response_format=strategy(Weather))
    asked = {"messages": [("human", "The weather in Rome is 21 degrees.")]}
    state = agent.invoke(asked, config={"recursion_limit": 12})
    assert type(state["structured_response"]) is Weather
    assert get_provenances(state)
