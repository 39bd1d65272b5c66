"""``HuggingFaceLLM`` 0.8.0 in the same suite: what it is seen to do is what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from llama_index.llms.huggingface import HuggingFaceLLM
from models import pair, save
from suite import LLMConformance, checks, observe

pytestmark = pytest.mark.slow


class OfHuggingFace(LLMConformance):
    """Over one random model."""

    calls_tools = False
    limit = 4.0

    def make(self, **options: Any) -> HuggingFaceLLM:
        model, tokenizer = pair(57, True)
        return self._made(options, model=model, tokenizer=tokenizer)

    def make_from_files(self, folder: Path) -> HuggingFaceLLM:
        path = save(folder, 57, True)
        return self._made({}, model_name=path, tokenizer_name=path, device_map="cpu")

    def models(self, llm: Any) -> list[tuple[Any, Any]]:
        return [(llm._model, llm._tokenizer)]

    def _made(self, options: dict[str, Any], **models: Any) -> HuggingFaceLLM:
        given = dict(options)
        return HuggingFaceLLM(
            max_new_tokens=given.pop("max_tokens", 30),
            context_window=16384,
            is_chat_model=True,
            generate_kwargs={"do_sample": False},
            **models,
            **given,
        )


#: Check → what is seen to go wrong (a pattern), and what it does instead, for the table. The others pass, or are about tools.
FAILS = {
    "test_the_last_response_of_a_stream_is_complete": ("raw is lost", "the text is whole, `raw` is `None` in streams"),
    "test_raw_is_json": ("Tensor is not JSON", "`raw` holds tensors"),
    "test_events": (
        "chat: .*'LLMCompletionStartEvent': 1",
        "`chat` fires events of a completion besides its own, async methods those of the ones that they call",
    ),
    "test_events_are_json": ("Unable to serialize", "events hold the tensors of `raw`"),
    "test_callback_events": ("chat: 2 events began", "two for a `chat`: tokens are counted twice"),
    "test_the_event_loop_is_free": ("achat: [0-9] ticks", "the model runs on the event loop, which stands still"),
    "test_an_error_reaches_the_reader_of_a_stream": ("stream_chat, .* hangs", "the stream waits for ever"),
    "test_an_error_reaches_the_reader_of_an_async_stream": ("astream_chat, .* hangs", "the event loop waits for ever"),
    "test_a_closed_stream_computes_no_more": ("forwards after it was left", "its thread computes to the end"),
    "test_a_dropped_stream_computes_no_more": ("forwards after it was left", "its thread computes to the end"),
    "test_a_closed_async_stream_computes_no_more": ("after it was left", "its thread computes to the end"),
    "test_a_cancelled_task_computes_no_more": (
        "could not be cancelled",
        "cannot be cancelled before everything is computed, as the event loop stands still",
    ),
    "test_one_beginning_of_text": ("chat: 2 beginnings", "two in `chat` where the chat template writes one"),
    "test_two_system_messages": (
        "must come first",
        "go to the chat template as they are; one that takes a single system message raises",
    ),
    "test_the_system_prompt_is_there_once": ("chat: it is there 0 times", "`chat` forgets it"),
    "test_complete_and_its_streams_have_one_prompt": (
        "with \\['system_prompt'\\], .* prompts differ",
        "`complete` forgets `system_prompt`, `stream_complete` forgets `completion_to_prompt`",
    ),
    "test_a_misspelt_option_is_refused": ("chat: not refused", "keywords of a call are ignored"),
    "test_max_tokens_of_a_call": ("chat: ", "keywords of a call are ignored"),
    "test_stop_of_a_call": ("chat: ", "keywords of a call are ignored; there are stop token ids, no stop strings"),
    "test_temperature_of_a_call": ("always the same text", "keywords of a call are ignored"),
    "test_the_name_is_that_of_the_model": ("stablelm", "that of a model given loaded is the default's, StableLM"),
    "test_deep_copies_share_weights": ("the weights are there twice", "a deep copy copies the weights"),
    "test_as_a_dict_and_back": ("from_dict fails", "`from_dict` does not take what `to_dict` gives"),
    "test_pickle": ("no attribute", "pickles without the model; what is read again cannot be used"),
}
DOCUMENT = Path(__file__).parents[4] / "docs" / "llama_index_conformance.md"


def expected() -> dict[str, str]:
    """Every check, and what becomes of it: "passes", "not claimed" or "fails"."""
    about_tools = [
        name
        for name, check in vars(LLMConformance).items()
        if "claims_tools" in getattr(check, "__code__", _NONE).co_names
    ]
    return {name: "fails" if name in FAILS else "not claimed" if name in about_tools else "passes" for name in checks()}


_NONE = compile("", "", "exec")


def table() -> str:
    rows = [
        "| check | NudgingLLM | HuggingFaceLLM 0.8.0 | what HuggingFaceLLM does instead |",
        "| --- | --- | --- | --- |",
    ]
    for name, outcome in expected().items():
        instead = FAILS[name][1] if name in FAILS else "" if outcome == "passes" else "it calls no tools"
        rows.append(f"| {checks()[name]} | passes | {outcome} | {instead} |")
    return "\n".join(rows) + "\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", checks())
def test_it_does_what_the_table_says(name: str) -> None:
    outcome, _, reason = observe(OfHuggingFace(), name, 30).partition(": ")
    assert outcome == expected()[name], reason
    if name in FAILS:
        assert re.search(FAILS[name][0], reason, re.DOTALL), reason


def test_the_document_has_this_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text[text.index("| check |") :].split("\n\n")[0].strip() == table().strip()


if __name__ == "__main__":  # PYTHONPATH=../.. python tests/conformance/test_huggingface.py
    print(table(), end="")
