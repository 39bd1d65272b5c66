"""The programs in ``cookbook/`` that use LlamaIndex, on the starter pair: what holds whatever the models write."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.agent.workflow import AgentOutput, AgentStream, ToolCallResult

from llama_index.llms.nudging import NudgingLLM, TextProvenance, collect_provenance, get_pieces, get_provenance
from nudging_llm import Piece, Provenance, Reason

pytestmark = pytest.mark.real
SHORT = 64  # tokens
COOKBOOK = Path(__file__).parents[4] / "cookbook"


def program(name: str) -> ModuleType:
    """A program of the cookbook as a module; its ``main`` has not run."""
    if name not in sys.modules:
        if name != "llama_index_query_engine":
            program("llama_index_query_engine")  # of which others take the documents
        spec = importlib.util.spec_from_file_location(name, COOKBOOK / f"{name}.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def tokenizer(starter: NudgingLLM) -> Iterator[None]:
    before = Settings._tokenizer
    Settings.tokenizer = starter.tokenizer_fn
    yield
    Settings._tokenizer = before


@pytest.fixture
def longer(starter: NudgingLLM) -> NudgingLLM:
    """With room for a call; the same weights."""
    return starter.with_options(max_tokens=80)


@pytest.fixture(scope="module")
def index() -> Any:
    return program("llama_index_query_engine").make_index()


@pytest.fixture
def run_main(tokenizer: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a program as it stands, on the shared weights, and gives what it prints."""
    make = NudgingLLM.starter.__func__

    def small(cls: Any, **options: Any) -> NudgingLLM:
        options["max_tokens"] = min(options.get("max_tokens", SHORT), SHORT)  # a call fits in; the program is the same
        return make(cls, **options, dtype="float32", device="cpu")

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(NudgingLLM, "starter", classmethod(small))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        program(name).main()
        return capsys.readouterr().out

    return run


def check_joined(pieces: Any, text: str) -> None:
    at = 0
    for piece in pieces:
        assert piece.start == at and text.startswith(piece.text, at)
        at += len(piece.text)
    assert at == len(text)


def check_inside(found: TextProvenance | None, text: str, record: Provenance) -> None:
    """All of a text is from one answer, whose words it may hold a part of."""
    assert found and found.text == text and found.provenance == record
    check_joined(found.pieces, text)
    assert text in record.text


# -- a query engine -----------------------------------------------------------------------------------------------------


def test_retrieval_finds_the_nearest_document(index: Any) -> None:
    engines = program("llama_index_query_engine")
    assert type(index.vector_store).__name__ == "ChromaVectorStore"
    for question, nearest in zip(engines.QUESTIONS, ("library", "tickets"), strict=True):
        found = index.as_retriever(similarity_top_k=3).retrieve(question)
        assert found[0].node_id == nearest and len({node.node_id for node in found}) == 3
        assert all(node.text == engines.DOCUMENTS[node.node_id] for node in found)


@pytest.mark.usefixtures("tokenizer")
def test_query_engine_plain_and_streaming(starter: NudgingLLM, index: Any) -> None:
    engines, live = program("llama_index_query_engine"), []
    question = engines.QUESTIONS[1]
    with collect_provenance() as calls:
        response = engines.make_engine(starter, index).query(question)
    assert len(calls) == 1 and calls.last.text == str(response)
    check_inside(starter.provenance_of(response), str(response), calls.last)
    assert response.source_nodes[0].node_id == "tickets"

    with collect_provenance(lambda piece, call: live.append(piece)) as streamed:
        response = engines.make_engine(starter, index, streaming=True).query(question)
        text = "".join(response.response_gen)
    assert len(streamed) == 1 and streamed.last.text == text == calls.last.text
    assert tuple(live) == streamed.last.pieces
    check_inside(starter.provenance_of(text), text, streamed.last)
    assert len(response.source_nodes) == 2


def test_shared_words() -> None:
    engines = program("llama_index_query_engine")
    said = [("Well", "nudging"), (", a return ticket for", "base"), (" the ferry", "nudging"), (" is red.", "base")]
    pieces, start = [], 0
    for text, source in said:
        pieces.append(Piece(text, start, source, Reason.UNCERTAIN, 1, 0.3, " the", 1, 0.0))
        start += len(text)
    answer = TextProvenance("".join(text for text, _ in said), tuple(pieces), ())
    tickets = engines.DOCUMENTS["tickets"]
    assert engines.shared(answer, tickets) == ("a return ticket for the ferry", ["base", "nudging"])
    assert engines.shared(answer, tickets, at_least=7) is None
    assert engines.shared(answer, engines.DOCUMENTS["pool"]) is None
    assert engines.shared(TextProvenance("", (), ()), tickets) is None


def test_query_engine_prints(run_main: Any) -> None:
    printed = run_main("llama_index_query_engine", "Is the pool heated?")
    assert printed.startswith("> Is the pool heated?\n  ") and printed.count("\n  source: pool (") == 2
    plain, _, streamed = printed.partition("> Is the pool heated? (streamed)\n")
    assert "\n  nudged " in plain and plain.splitlines()[1] == streamed.splitlines()[0]


# -- a chat engine ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tokenizer")
def test_chat_engine(starter: NudgingLLM, index: Any, capsys: pytest.CaptureFixture[str]) -> None:
    chats = program("llama_index_chat_engine")
    chat = chats.make_chat(starter, index)
    turns = []
    for question in chats.QUESTIONS:
        answer, call = chats.ask(chat, starter, question)
        check_inside(answer, call.provenance.text.strip(), call.provenance)
        turns.append((question, answer, call))

    held = [(message.role.value, message.content) for message in chat.chat_history]
    assert held == [entry for q, answer, _ in turns for entry in (("user", q), ("assistant", answer.text))]
    for message, (_, answer, _) in zip(chat.chat_history[1::2], turns, strict=True):
        assert starter.provenance_of(message) == answer
    first, second = (call.provenance.base.prompt_tokens for _, _, call in turns)
    assert second > first, "the second turn reads the first"
    assert capsys.readouterr().out.count("  source: museum (") == 2


def test_chat_engine_prints(run_main: Any) -> None:
    printed = run_main("llama_index_chat_engine")
    memory = printed.partition("The memory holds:\n")[2]
    assert memory.count("  user: ") == memory.count("  assistant: ") == memory.count("% nudged)") == 2


# -- agents -------------------------------------------------------------------------------------------------------------


async def run_agent(agent: Any, question: str) -> tuple[list[Any], AgentOutput, Any]:
    with collect_provenance() as calls:
        handler = agent.run(user_msg=question, max_iterations=4)
        events = [event async for event in handler.stream_events()]
        return events, await handler, calls


def check_streams(events: list[Any], calls: Any) -> None:
    """Each call of the model came as its pieces, then its record."""
    records, pieces = [], []
    for event in events:
        if isinstance(event, AgentStream):
            if record := get_provenance(event):
                records.append(record)
                check_joined(pieces, record.text)
                pieces = []
            else:
                pieces += get_pieces(event)
    assert records == calls.provenances and not pieces


@pytest.mark.usefixtures("tokenizer")
async def test_react_agent_calls_a_tool(longer: NudgingLLM) -> None:
    agents = program("llama_index_agents")
    held = agents.HeldToReAct.starter(max_tokens=80, dtype="float32", device="cpu")
    assert held._loaded() is not None and held._loaded().base is longer._loaded().base
    events, output, calls = await run_agent(agents.make_react_agent(held), "When does the museum open?")
    check_streams(events, calls)
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert result.tool_output.content == getattr(agents, result.tool_name)(**result.tool_kwargs)
    first, second = calls.provenances
    assert f"Action: {result.tool_name}\nAction Input: {json.dumps(result.tool_kwargs)}" in first.text
    assert second.text.rpartition("Answer:")[2].strip() == str(output)
    check_inside(held.provenance_of(output), str(output), second)
    assert "Observation:" not in first.text + second.text


@pytest.mark.usefixtures("tokenizer")
async def test_function_agent_calls_the_tool_that_is_forced(longer: NudgingLLM) -> None:
    agents = program("llama_index_agents")
    agent = agents.make_function_agent(longer)
    with collect_provenance() as calls:
        handler = agent.run(user_msg="When does the museum open?", max_iterations=2)
        events = [event async for event in handler.stream_events()]
        with contextlib.suppress(agents.WorkflowRuntimeError):  # where the second call is not an answer either
            await handler
    check_streams(events, calls)
    output = next(event for event in events if isinstance(event, AgentOutput))
    result = next(event for event in events if isinstance(event, ToolCallResult))
    (call,) = output.tool_calls
    assert (call.tool_name, call.tool_kwargs) == (result.tool_name, result.tool_kwargs)
    assert result.tool_name == "opening_hours"
    assert result.tool_output.content == agents.opening_hours(**call.tool_kwargs)
    record, answer = calls.provenances
    assert any(piece.source == "grammar" for piece in record.pieces) and not output.response.content
    assert longer.provenance_of(output).records == (record,)
    assert answer.base.prompt_tokens > record.base.prompt_tokens, "the second call reads the tool's result"


@pytest.mark.usefixtures("tokenizer")
async def test_an_agent_that_does_not_finish(longer: NudgingLLM, capsys: pytest.CaptureFixture[str]) -> None:
    agents = program("llama_index_agents")
    output, calls = await agents.ask(agents.make_function_agent(longer), "When does the museum open?", max_iterations=1)
    assert output is None and len(calls.provenances) == 1
    assert "  no answer: Max iterations of 1 reached!" in capsys.readouterr().out


def test_agents_print(run_main: Any) -> None:
    printed = run_main("llama_index_agents")
    runs = printed.strip().split("\n\n> ")
    assert [run.partition("\n")[0].rpartition("? ")[2] for run in runs] == [
        "(FunctionAgent, NudgingLLM)",
        "(ReActAgent, NudgingLLM)",
        "(ReActAgent, HeldToReAct)",
    ]
    for run in runs:
        assert ("  the answer: " in run) != ("  no answer: Max iterations" in run)
        assert run.count("  nudged ") == run.count("  call ") >= 1
    assert "  opening_hours({'place': " in runs[0] and "{'" in runs[2]


# -- a router -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tokenizer")
def test_router(longer: NudgingLLM, capsys: pytest.CaptureFixture[str]) -> None:
    routers = program("llama_index_router")
    router = routers.make_router(longer)
    for question in routers.QUESTIONS:
        response, calls = routers.ask(router, longer, question)
        choice, answer = calls.provenances
        assert choice.grammar_tokens > 0 and answer.grammar_tokens == 0
        chosen = response.metadata["selector_result"]
        arguments = json.loads(choice.text.partition('"arguments": ')[2].partition("</tool_call>")[0].strip()[:-1])
        assert arguments == {"index": chosen.ind + 1, "reason": chosen.reason} and len(chosen.reason) <= 80
        name = list(routers.ENGINES)[chosen.ind]
        assert {source.node_id for source in response.source_nodes} == set(routers.ENGINES[name][1])
        check_inside(longer.provenance_of(response), str(response), answer)
        assert f"  asked the engine {name!r}: {chosen.reason}\n" in capsys.readouterr().out


async def test_router_async(longer: NudgingLLM, tokenizer: None) -> None:
    routers = program("llama_index_router")
    with collect_provenance() as calls:
        response = await routers.make_router(longer).aquery(routers.QUESTIONS[0])
    assert len(calls.provenances) == 2 and response.metadata["selector_result"].ind in (0, 1)
    check_inside(longer.provenance_of(response), str(response), calls.last)


def test_router_prints(run_main: Any) -> None:
    printed = run_main("llama_index_router")
    for line in ("  choice: ", "  answer: ", "  asked the engine ", "  source: "):
        assert printed.count(line) >= 2
