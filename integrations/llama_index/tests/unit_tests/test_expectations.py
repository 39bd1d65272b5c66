"""What users of LlamaIndex take for granted and no suite asks for."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index.llms.nudging import NudgingLLM, collect_provenance, get_pieces, get_provenance
from llama_index.llms.nudging.messages import to_core_messages
from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer
from nudging_llm.text.messages import read_messages


def scripted(*pairs: tuple[str, str]) -> NudgingLLM:
    return NudgingLLM(generator=scripted_pair(rules(*pairs), NudgingConfig(max_tokens=300)))


# -- contexts that are filled -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short() -> NudgingGenerator:
    """A context that engines fill: 4,096 tokens, a byte each."""
    pair = [(tiny_model(seed, max_position_embeddings=4096), tiny_tokenizer(True)) for seed in (7, 57)]
    return NudgingGenerator.from_pretrained(*pair, NudgingConfig(max_tokens=4), dtype="float32", device="cpu")


class Fact(BaseModel):
    """A fact that the text states, with the place where it stands."""

    subject: str
    statement: str


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize", "compact_accumulate"])
@pytest.mark.parametrize("system_prompt", [None, "Answer as briefly as you can."])
def test_what_an_engine_packs_fits(
    short: NudgingGenerator, mode: Any, system_prompt: str | None, settings: Any
) -> None:
    llm = NudgingLLM(generator=short, system_prompt=system_prompt)
    Settings.tokenizer = llm.tokenizer_fn
    for extra in range(0, 40, 13):
        index = SummaryIndex.from_documents([Document(text="The ferry leaves. " * 400 + "x" * extra)])
        assert index.as_query_engine(llm=llm, response_mode=mode).query("When?") is not None


@pytest.mark.slow
def test_what_an_engine_packs_for_an_object_fits(short: NudgingGenerator, settings: Any) -> None:
    llm = NudgingLLM(generator=short, max_tokens=300, context_reserve=1200)
    Settings.tokenizer = llm.tokenizer_fn
    index = SummaryIndex.from_documents([Document(text="The ferry leaves. " * 300)])
    engine = index.as_query_engine(llm=llm, response_mode="tree_summarize", output_cls=Fact)
    assert type(engine.query("When?").response) is Fact


# -- agents at their last iteration -----------------------------------------------------------------------------------


def ping() -> str:
    """Ping."""
    return "pong"


@pytest.mark.parametrize("kind", ["function", "react", "workflow"])
async def test_an_agent_at_its_limit_gives_a_final_answer(kind: str) -> None:
    tools = [FunctionTool.from_defaults(ping)]
    react = "Thought: again.\nAction: ping\nAction Input: {}"
    call = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'

    def script(prompt: str) -> str:
        last = prompt[max(prompt.rfind("Question:"), prompt.rfind("<|turn|>user\n")) :]
        return "Enough." if "maximum" in last.lower() or "final" in last.lower() else react if kind == "react" else call

    llm = NudgingLLM(generator=scripted_pair(script, NudgingConfig(max_tokens=300)))
    made: Any = ReActAgent if kind == "react" else FunctionAgent
    agent: Any = made(tools=tools, llm=llm, early_stopping_method="generate")
    if kind == "workflow":
        agent = AgentWorkflow(agents=[agent], early_stopping_method="generate")
    output = await agent.run("Ping.", max_iterations=2)
    assert "Enough." in str(output)


@pytest.mark.parametrize(
    "roles", [["user", "system"], ["system"], ["system", "system"], ["user", "assistant", "system"]]
)
def test_a_system_message_may_stand_anywhere(roles: list[str]) -> None:
    found = read_messages(to_core_messages([ChatMessage(role=role, content=f"{i}.") for i, role in enumerate(roles)]))
    assert found[-1]["role"] == "user" and found[-1]["content"].endswith(f"{len(roles) - 1}.")


# -- other models' histories ------------------------------------------------------------------------------------------


def asked(*ids: str | None) -> ChatMessage:
    return ChatMessage(
        role="assistant", blocks=[ToolCallBlock(tool_call_id=one, tool_name="add", tool_kwargs={}) for one in ids]
    )


def result(call_id: str | None, text: str) -> ChatMessage:
    return ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": call_id} if call_id else {})


@pytest.mark.parametrize(
    "messages",
    [
        [asked(None), result(None, "1"), asked(None), result(None, "2")],
        [asked(None, None), result(None, "1"), result(None, "2")],
        [asked("add", "add"), result("add", "1"), result("add", "2")],
        [asked("call_0"), ChatMessage(content="Go on."), asked("call_0"), result("call_0", "1"), result("call_0", "2")],
    ],
    ids=["none", "none, in parallel", "the name", "one without an answer"],
)
def test_ids_that_tell_nothing_apart_are_no_hindrance(messages: list[ChatMessage]) -> None:
    found = read_messages(to_core_messages([ChatMessage(content="Add."), *messages]))
    results = [message["content"] for message in found if message["role"] == "tool"]
    assert results == ["1", "2"]
    ids = [call["id"] for message in found for call in message.get("tool_calls", ())]
    assert len(set(ids)) == len(ids) == 2


# -- whose text it is -------------------------------------------------------------------------------------------------


@pytest.fixture
def remembering() -> NudgingLLM:
    """Has said "1", "Yes" and a sentence."""
    llm = scripted(("one", "1"), ("yes", "Yes"), ("ferry", "The ferry leaves at 9:40."))
    for question in ("one", "yes", "ferry"):
        llm.complete(question)
    return llm


@pytest.mark.parametrize(
    "text",
    [
        "Room 1 is free. Yes we can.",
        "Section 1 of the manual",
        "The",
        "9",
        "e",
        "Yes, the ferry",
        ChatMessage(role="user", content="Yes"),
        ChatMessage(role="tool", content="The ferry leaves at 9:40."),
    ],
    ids=str,
)
def test_a_text_that_nobody_here_wrote_is_nobodys(remembering: NudgingLLM, text: Any) -> None:
    assert remembering.provenance_of(text) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Yes", ["Yes"]),
        (" The ferry leaves at 9:40.\n", ["The ferry leaves at 9:40."]),
        ("ferry leaves at 9:40.", ["ferry leaves at 9:40."]),
        ("Response 1: Yes\n---------------------\nResponse 2: 1", ["Yes", "1"]),
    ],
)
def test_a_text_that_was_written_here_is_found(remembering: NudgingLLM, text: str, written: list[str]) -> None:
    found = remembering.provenance_of(text)
    assert found is not None
    parts: list[str] = []
    end = None
    for piece in found.pieces:
        assert text[piece.start : piece.start + len(piece.text)] == piece.text
        if piece.start == end:
            parts[-1] += piece.text
        else:
            parts.append(piece.text)
        end = piece.start + len(piece.text)
    assert [part.strip() for part in parts] == written


def test_an_answer_of_long_ago_is_not_taken_for_another(remembering: NudgingLLM) -> None:
    response = remembering.complete("ferry")
    object.__setattr__(response, "raw", None)
    for _ in range(64):
        remembering.complete("yes")
    assert remembering.provenance_of(response) is None


# -- and more ---------------------------------------------------------------------------------------------------------


class Tagged(BaseModel):
    """Tags."""

    tags: set[str]
    frozen: frozenset[int]


def test_sets_are_made_by_pydantic() -> None:
    call = '<tool_call>\n{"name": "Tagged", "arguments": {"tags": ["a", "b", "a"], "frozen": [1, 1]}}\n</tool_call>'
    found = scripted((".", call)).structured_predict(Tagged, PromptTemplate("Tag it."))
    assert found == Tagged(tags={"a", "b"}, frozen=frozenset({1}))


def test_a_queue_that_could_be_full_is_refused() -> None:
    with pytest.raises(TypeError, match="holds 3 pieces"), collect_provenance(asyncio.Queue(3)):
        pass


def test_a_stream_that_is_closed_unread_is_forgotten(llm: NudgingLLM) -> None:
    stream = llm.stream_complete("Who?")
    run = weakref.ref(stream)
    stream.close()
    del stream
    gc.collect()
    assert run() is None


@pytest.mark.parametrize("tools", [None, [FunctionTool.from_defaults(ping)]])
def test_a_loop_over_a_stream_sees_each_piece_once(tools: Any) -> None:
    llm = scripted((".", "One. Two."))
    responses = list(llm.stream_chat([ChatMessage(content="Count.")], tools=tools))
    pieces = [piece for response in responses for piece in get_pieces(response)]
    assert "".join(piece.text for piece in pieces) == "One. Two."
    assert get_pieces(responses[-1]) == () and get_provenance(responses[-1]).pieces == tuple(pieces)  # type: ignore[union-attr]
    assert len(get_pieces(llm.chat([ChatMessage(content="Count.")], tools=tools))) == len(pieces)
