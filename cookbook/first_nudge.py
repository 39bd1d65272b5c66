"""Stream an answer, see who wrote what, keep the record as JSON.

On a GPU with larger models, replace ``starter()`` by, for example::

    NudgingGenerator.from_pretrained("google/gemma-2-27b", "google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})
"""

from __future__ import annotations

from pathlib import Path

from nudging_llm import NudgingConfig, NudgingGenerator, Provenance

CONTEXT = (
    "The library opens at 9 on weekdays and at 11 on Saturdays. It is closed on Sundays. Members may borrow ten books for "
    "three weeks; a book that nobody waits for can be renewed once."
)


def main() -> None:
    generator = NudgingGenerator.starter(NudgingConfig(threshold=0.4, max_tokens=48))
    messages = [
        {"role": "system", "content": f"Answer from this text:\n{CONTEXT}"},
        {"role": "user", "content": "When does the library open on Saturdays?"},
    ]
    stream = generator.stream(messages)
    for piece in stream:  # leaving this loop stops all compute
        print(f"[{piece.text}]" if piece.source == "nudging" else piece.text, end="", flush=True)
    print()

    record = stream.provenance
    print(f"nudged {record.nudge_ratio:.0%} of {record.n_tokens} tokens, ended: {record.finish_reason}")
    for piece in record.pieces:
        if piece.reason == "uncertain":
            print(f"  base was {piece.base_top_prob:.0%} sure of {piece.base_top_text!r}; written: {piece.text!r}")

    path = Path("answer.json")
    path.write_text(record.to_json(indent=2), encoding="utf-8")
    assert Provenance.from_dict(record.to_dict()) == record
    print(f"The whole record is in {path}.")


if __name__ == "__main__":
    main()
