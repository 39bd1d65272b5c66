"""The programs in ``cookbook/`` that use LangChain, on the starter pair: what holds whatever the models write."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage

from langchain_nudging import ChatNudging, ProvenanceCallbackHandler, get_pieces, get_provenance, get_provenances
from nudging_llm import Piece, Provenance, Reason

pytestmark = pytest.mark.real
SHORT = 48  # tokens
COOKBOOK = Path(__file__).parents[4] / "cookbook"


def program(name: str) -> ModuleType:
    """A program of the cookbook as a module; its ``main`` has not run."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, COOKBOOK / f"{name}.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def longer(starter: ChatNudging) -> ChatNudging:
    """With room for a call; the same weights."""
    return starter.model_copy(update={"max_tokens": 64})


@pytest.fixture
def forwards(starter: ChatNudging, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever either model begins a forward."""
    generator, seen = starter._loaded(), []
    for engine in (generator.base.engine, generator.nudging.engine):

        def forward(*args: Any, real: Any = engine.forward, name: str = engine.name) -> Any:
            seen.append(name)
            return real(*args)

        monkeypatch.setattr(engine, "forward", forward)
    return seen


@pytest.fixture
def run_main(starter: ChatNudging, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a program as it stands, on the shared weights, and gives what it prints."""
    make = ChatNudging.starter

    def small(**options: Any) -> ChatNudging:
        options["max_tokens"] = min(options.get("max_tokens", SHORT), SHORT)  # a call fits in; the program is the same
        return make(**options, dtype="float32", device="cpu")

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(ChatNudging, "starter", small)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        program(name).main()
        return capsys.readouterr().out

    return run


def unmarked(printed: str) -> str:
    return re.sub(r"[\[\]()]", "", printed)


def check_joined(pieces: Any, text: str) -> None:
    at = 0
    for piece in pieces:
        assert piece.start == at and text.startswith(piece.text, at)
        at += len(piece.text)
    assert at == len(text)


# -- retrieval ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embeddings() -> Any:
    return program("langchain_rag").MiniLM()


@pytest.mark.parametrize("chroma", [False, True], ids=["memory", "chroma"])
def test_retrieval(starter: ChatNudging, embeddings: Any, chroma: bool) -> None:
    rag = program("langchain_rag")
    store = rag.make_store(embeddings, chroma)
    assert type(store).__name__ == ("Chroma" if chroma else "InMemoryVectorStore")
    chain = rag.make_chain(starter, store)
    for question, nearest in zip(rag.QUESTIONS, ("library", "tickets"), strict=True):
        handler = ProvenanceCallbackHandler()
        found = chain.invoke(question, config={"callbacks": [handler]})
        names = [document.id for document in found["documents"]]
        assert len(set(names)) == 3 and names[0] == nearest
        assert {document.page_content for document in rag.DOCUMENTS} >= {d.page_content for d in found["documents"]}

        assert isinstance(found["answer"], str) and found["answer"]
        (record,) = handler.provenances
        check_joined(record.pieces, found["answer"])
        texts = {document.id: rag._plain(document.page_content) for document in found["documents"]}
        end = 0
        for citation in rag.cite(record.pieces, found["documents"]):
            assert citation.start >= end and found["answer"].startswith(citation.text, citation.start)
            end = citation.start + len(citation.text)
            assert len(citation.text.split()) >= 3 and set(citation.documents) <= set(names)
            assert all(rag._plain(citation.text) in texts[name] for name in citation.documents)
            assert citation.written_by and set(citation.written_by) <= {"base", "nudging"}


def test_citations_name_the_documents_that_hold_the_words() -> None:
    rag = program("langchain_rag")
    said = [
        ("Well", "nudging"),
        (", a return ticket for the ferry", "base"),
        (" costs 12", "nudging"),
        (" crowns", "base"),
        (". The pool is red, on Mondays", "base"),
    ]
    pieces, start = [], 0
    for text, source in said:
        reason = Reason.UNCERTAIN if source == "nudging" else Reason.CONFIDENT
        pieces.append(Piece(text, start, source, reason, 1, 0.3, " the", 1, 0.0))
        start += len(text)
    (ticket,) = rag.cite(pieces, rag.DOCUMENTS)
    assert ticket.text == "a return ticket for the ferry costs 12 crowns" and ticket.start == 6
    assert ticket.written_by == ["base", "nudging"] and ticket.documents == ["tickets"]
    pairs = rag.cite(pieces, rag.DOCUMENTS, at_least=2)
    assert ("on Mondays", ["museum"]) in [(pair.text, pair.documents) for pair in pairs]
    assert "pool is red" not in [pair.text for pair in pairs], "no document says so"
    assert rag.cite(pieces, rag.DOCUMENTS[:2]) == []


# -- an agent -----------------------------------------------------------------------------------------------------------


def test_agent(longer: ChatNudging) -> None:
    agents = program("langchain_agent")
    agent, config = agents.make_agent(longer), {"configurable": {"thread_id": "one"}}
    streamed: dict[str, list[Piece]] = {}
    asked = {"messages": [("human", "When does the museum open?")]}
    for message, metadata in agent.stream(asked, config, stream_mode="messages"):
        if isinstance(message, AIMessageChunk) and not get_provenance(message):
            assert metadata["langgraph_node"] == "model"
            streamed.setdefault(message.id, []).extend(get_pieces(message))

    state = agent.get_state(config).values
    human, calling, result, answer = state["messages"]
    assert human.text == "When does the museum open?"
    (call,) = calling.tool_calls
    tool = {"opening_hours": agents.opening_hours, "next_ferry": agents.next_ferry}[call["name"]]
    assert isinstance(result, ToolMessage) and result.tool_call_id == call["id"]
    assert (result.status, result.content) == ("success", tool(**call["args"]))
    assert answer.text and not answer.tool_calls
    check_joined(get_pieces(answer), answer.text)
    assert [tuple(pieces) for pieces in streamed.values()] == [get_pieces(calling), get_pieces(answer)]
    records = get_provenances(state)
    assert [record.text for record in records] == ["".join(p.text for p in pieces) for pieces in streamed.values()]
    assert any(piece.source == "grammar" for piece in records[0].pieces)

    saved = agent.checkpointer.get(config)["channel_values"]
    assert get_provenances(saved) == records
    other = agent.get_state({"configurable": {"thread_id": "another"}}).values
    assert get_provenances(other) == []


async def test_agent_async(longer: ChatNudging) -> None:
    agent = program("langchain_agent").make_agent(longer)
    config = {"configurable": {"thread_id": "one"}}
    for turn in (1, 2):
        state = await agent.ainvoke({"messages": [("human", "When does the ferry leave after 12?")]}, config)
        kinds = [message.type for message in state["messages"]]
        assert kinds == ["human", "ai", "tool", "ai"] * turn
        assert len(get_provenances(state)) == 2 * turn


def test_agent_prints(run_main: Any) -> None:
    printed = run_main("langchain_agent")
    assert "4 records in all" in printed and printed.count("  model: nudged") == 4
    lines = unmarked(printed.partition("The thread's state holds:")[0])
    assert lines.count('<tool_call>\n{"name": "') == 2, "pieces of a call, joined"


# -- a graph ------------------------------------------------------------------------------------------------------------


def test_graph(longer: ChatNudging, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = program("langchain_graph")
    state, records = graphs.ask(graphs.make_graph(longer), "How much is the ferry?")
    assert state["topic"] in graphs.FACTS
    assert set(records) == {"classify", "answer"}
    assert f'{{"topic": "{state["topic"]}"}}' in records["classify"].text
    (message,) = state["messages"]
    assert isinstance(message, AIMessage) and get_provenance(message) == records["answer"]
    check_joined(records["answer"].pieces, message.text)
    printed = unmarked(capsys.readouterr().out)
    text, answer = unmarked(records["classify"].text), unmarked(message.text)
    assert printed == f"{text}\n  classify returned topic\n{answer}\n  answer returned messages\n"


def test_graph_prints(run_main: Any) -> None:
    printed = run_main("langchain_graph")
    assert printed.count("  classify: ") == printed.count("  answer: ") == 2


# -- fallbacks, retries, cache, events -----------------------------------------------------------------------------------


def test_fallback(starter: ChatNudging) -> None:
    handler = ProvenanceCallbackHandler()
    chain = program("langchain_resilience").with_fallback(starter, seconds=1e-6)
    message = chain.invoke("What causes the tides?", config={"callbacks": [handler]})
    failed, finished = handler.answers
    assert isinstance(failed.error, TimeoutError) and failed.provenance is None
    assert finished.provenance == get_provenance(message) and 1 <= finished.provenance.n_tokens <= 5
    check_joined(get_pieces(message), message.text)


def test_no_fallback_where_there_is_time(starter: ChatNudging) -> None:
    chain = program("langchain_resilience").with_fallback(starter, seconds=600)
    message = chain.invoke("What causes the tides?")
    assert get_provenance(message).config["max_tokens"] == starter.max_tokens


def test_retry(starter: ChatNudging) -> None:
    resilience, handler = program("langchain_resilience"), ProvenanceCallbackHandler()
    shelf = resilience.Shelf()
    message = resilience.with_retry(starter, shelf).invoke("Name a colour.", config={"callbacks": [handler]})
    assert (shelf.calls, shelf.kept) == (2, [message.text])
    assert [answer.text for answer in handler.answers] == [message.text] * 2
    assert handler.last == get_provenance(message)


def test_a_cached_answer_has_its_record(starter: ChatNudging, forwards: list[str]) -> None:
    cached = program("langchain_resilience").with_cache(starter)
    first = cached.invoke("Name a colour.")
    forwards.clear()
    handler = ProvenanceCallbackHandler()
    second = cached.invoke("Name a colour.", config={"callbacks": [handler]})
    assert not forwards and second.text == first.text
    assert get_provenance(second) == get_provenance(first) == handler.last
    assert get_pieces(second) == get_pieces(first)
    other = cached.model_copy(update={"threshold": 0.1}).invoke("Name a colour.")
    assert get_provenance(other).config["threshold"] == 0.1


async def test_events(starter: ChatNudging) -> None:
    pieces = await program("langchain_resilience").pieces_from_events(starter, "Name a colour.")
    check_joined(pieces, (await starter.ainvoke("Name a colour.")).text)


def test_resilience_prints(run_main: Any) -> None:
    printed = run_main("langchain_resilience")
    for line in ("retry: 2 answers were written", "finished\n", "cache: 0.0", "events: ["):
        assert line in printed


def test_rag_prints(run_main: Any) -> None:
    printed = run_main("langchain_rag", "Is the pool heated?")
    assert printed.startswith("Is the pool heated?\n") and "  retrieved: pool" in printed and "  nudged " in printed


# -- server-sent events --------------------------------------------------------------------------------------------------


def parse(body: str) -> list[tuple[str, Any]]:
    """Events as a browser reads them."""
    events = []
    for block in filter(None, re.split(r"\r?\n\r?\n", body)):
        lines = [line.partition(": ") for line in block.splitlines()]
        name = "".join(value for key, _, value in lines if key == "event")
        data = "\n".join(value for key, _, value in lines if key == "data")
        if data:
            events.append((name, json.loads(data)))
    return events


def client(model: ChatNudging) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(program("fastapi_sse").create_app(model))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver")


async def test_sse(starter: ChatNudging) -> None:
    async with client(starter) as http:
        asked = [
            http.get("/answer", params={"question": question, "max_tokens": 12})
            for question in ("Name a colour.", "Zähle bis drei: 1, 2 …")
        ]
        for response in await asyncio.gather(*asked):
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            *pieces, (last, record) = parse(response.text)
            assert last == "record" and {name for name, _ in pieces} == {"piece"}
            check_joined([Piece.from_dict(piece) for _, piece in pieces], record["text"])
            assert Provenance.from_dict(record).n_tokens == sum(piece["n_tokens"] for _, piece in pieces) <= 12


async def test_sse_says_what_is_wrong(starter: ChatNudging, forwards: list[str]) -> None:
    async with client(starter) as http:
        assert (await http.get("/answer", params={"question": ""})).status_code == 422
        response = await http.get("/answer", params={"question": "\N{ALCHEMICAL SYMBOL FOR AIR}" * 4000})
    ((name, error),) = parse(response.text)
    assert name == "failed" and error["error"] == "ContextOverflowError" and error["message"]
    assert not forwards


@pytest.mark.parametrize("after", [0, 3], ids=["before the first piece", "after three pieces"])
async def test_a_client_that_goes_away_stops_compute(starter: ChatNudging, forwards: list[str], after: int) -> None:
    app = program("fastapi_sse").create_app(starter)
    sent, gone = [], asyncio.Event()
    asked = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if b"".join(found.get("body", b"") for found in sent).count(b"event: piece") >= after:
            gone.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/answer",
        "raw_path": b"/answer",
        "query_string": b"question=Tell+me+a+long+story+about+the+sea.&max_tokens=400",
        "headers": [],
        "server": ("testserver", 80),
        "client": ("testclient", 50000),
    }
    await asyncio.wait_for(app(scope, receive, send), 60)
    begun = len(forwards)
    await asyncio.sleep(1)
    assert len(forwards) <= begun + 1, "computing goes on"
    assert b"event: record" not in b"".join(found.get("body", b"") for found in sent)
    assert (await starter.ainvoke("Name a colour.", max_tokens=4)).text, "it can be asked again"


def test_server_starts(run_main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.append((app, options)))
    run_main("fastapi_sse")
    ((app, options),) = started
    assert options["host"] == "127.0.0.1" and "/answer" in app.openapi()["paths"]
