"""The peers: the starter pair in ``ChatNudging``, its nudging model alone in ``ChatHuggingFace``; greedy, float32, 40 tokens."""

from __future__ import annotations

from functools import cache
from typing import Any

from behaviours import Peer
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from langchain_nudging import ChatNudging
from nudging_llm.starter import fetch


@cache
def nudging() -> Peer:
    chat = ChatNudging.starter(max_tokens=40, dtype="float32", device="cpu")
    generator = chat._loaded()
    another = ChatNudging(base_model=str(fetch().nudging), nudging_model="starter", dtype="float32", device="cpu")
    return Peer(chat, another, (generator.base.engine.model, generator.nudging.engine.model))


@cache
def hugging_face() -> Peer:
    pair = fetch()
    chat, another = (_hugging_face(str(path)) for path in (pair.nudging, pair.base))
    return Peer(chat, another, (chat.llm.pipeline.model,))


def _hugging_face(folder: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"max_new_tokens": 40, "do_sample": False, "return_full_text": False}
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer, **options)
    return ChatHuggingFace(llm=HuggingFacePipeline(pipeline=generate, model_id=folder))
