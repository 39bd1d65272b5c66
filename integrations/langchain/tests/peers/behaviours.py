"""What users of local chat models have run into, as checks that any LangChain chat model over local weights can be asked.

Each check takes a ``Peer``; its docstring is its line in the documentation's table; it fails by ``AssertionError`` or by
whatever the model raises.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

QUESTION = "Name three things that one sees at the sea."


@dataclass
class Peer:
    """A chat model to be asked.

    Attributes:
        chat: greedy, with answers of at most 40 tokens.
        another: a like model over other weights.
        modules: the torch modules that it computes with.
    """

    chat: Any
    another: Any
    modules: tuple[Any, ...]


class Weather(BaseModel):
    """What the weather is like."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """Weather in a city."""
    return "sunny"


def the_prompt_is_not_in_the_answer(peer: Peer) -> None:
    """`invoke` gives the answer alone, without the prompt"""
    assert QUESTION not in text(peer.chat.invoke(QUESTION))


def ainvoke(peer: Peer) -> None:
    """`ainvoke` gives what `invoke` gives"""
    assert text(asyncio.run(peer.chat.ainvoke(QUESTION))) == text(peer.chat.invoke(QUESTION))


def stream(peer: Peer) -> None:
    """`stream` comes in parts, which add up to what `invoke` gives"""
    parts = [text(chunk) for chunk in peer.chat.stream(QUESTION)]
    assert len(list(filter(None, parts))) > 1, "one part"
    assert "".join(parts) == text(peer.chat.invoke(QUESTION))


def astream(peer: Peer) -> None:
    """`astream` does, too"""

    async def read() -> list[str]:
        return [text(chunk) async for chunk in peer.chat.astream(QUESTION)]

    parts = asyncio.run(read())
    assert len(list(filter(None, parts))) > 1, "one part"


def the_event_loop_is_free(peer: Peer) -> None:
    """the event loop stays free in `ainvoke`"""

    async def ticks() -> int:
        task, count = asyncio.create_task(peer.chat.ainvoke(f"{QUESTION} And why?")), 0
        while not task.done():
            await asyncio.sleep(0.01)
            count += 1
        await task
        return count

    assert asyncio.run(ticks()) > 5, "it stands still"


def max_tokens(peer: Peer) -> None:
    """a call's own `max_tokens` counts"""
    answer = text(peer.chat.invoke(QUESTION, max_tokens=3))
    assert len(answer) < 40, f"{len(answer)} characters with max_tokens=3"


def stop(peer: Peer) -> None:
    """a call's own `stop` ends the answer before it"""
    whole = text(peer.chat.invoke(QUESTION))
    word = whole.split()[3]
    answer = text(peer.chat.invoke(QUESTION, stop=[word]))
    assert whole.startswith(answer) and word not in answer, "it goes on"


def usage(peer: Peer) -> None:
    """`usage_metadata` counts tokens"""
    assert peer.chat.invoke(QUESTION).usage_metadata["output_tokens"] > 0


def a_call_can_be_forced(peer: Peer) -> None:
    """`bind_tools(…, tool_choice="any")` makes a call with arguments that fit"""
    [call] = peer.chat.bind_tools([get_weather], tool_choice="any").invoke("Is it warm in Rome?").tool_calls
    assert call["name"] == "get_weather" and isinstance(call["args"]["city"], str)


def structured_output(peer: Peer) -> None:
    """`with_structured_output` gives an object of the class"""
    assert isinstance(peer.chat.with_structured_output(Weather).invoke("It is 24 degrees in Rome."), Weather)


def a_misspelt_option_is_refused(peer: Peer) -> None:
    """a misspelt option of a call is refused"""
    try:
        peer.chat.invoke(QUESTION, max_tokenz=3)
    except Exception as error:
        assert "max_tokenz" in str(error)
    else:
        raise AssertionError("it is taken")


def caches_tell_models_apart(peer: Peer) -> None:
    """LangChain's cache has another key for another model"""
    assert peer.chat._get_llm_string() != peer.another._get_llm_string(), "one key"


def a_stream_that_is_left_computes_no_more(peer: Peer) -> None:
    """a stream that is left computes no more"""
    count = [0]
    hooks = [module.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1)) for module in peer.modules]
    try:
        for _ in peer.chat.stream(QUESTION):
            break
        seen = count[0]
        time.sleep(1.5)
        assert count[0] <= seen + 1, f"{count[0] - seen} forwards after it was left"
    finally:
        for hook in hooks:
            hook.remove()


def text(message: Any) -> str:
    return str(message.text)


CHECKS: tuple[Callable[[Peer], None], ...] = (
    the_prompt_is_not_in_the_answer,
    ainvoke,
    stream,
    astream,
    the_event_loop_is_free,
    max_tokens,
    stop,
    usage,
    a_call_can_be_forced,
    structured_output,
    a_misspelt_option_is_refused,
    caches_tell_models_apart,
    a_stream_that_is_left_computes_no_more,
)
