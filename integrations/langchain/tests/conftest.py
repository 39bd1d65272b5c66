"""What both kinds of tests share."""

from __future__ import annotations

import pytest

from langchain_nudging import ChatNudging
from nudging_llm.starter import folders


@pytest.fixture(scope="session")
def starter() -> ChatNudging:
    """The starter pair; while it lives, every other object over the pair uses the same weights."""
    return ChatNudging.starter(max_tokens=24, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def other_base(starter: ChatNudging) -> ChatNudging:
    """Another base model than ``starter``'s, by name; the same weights on disk. Held, so that it is loaded once."""
    starter._loaded()  # the files are there now
    options = {"dtype": "float32", "device": "cpu"}
    return ChatNudging(base_model=str(folders().base), nudging_model="starter", **options)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a test class names in ``elsewhere``: the class that runs those is said there."""
    kept, left = [], []
    for item in items:
        elsewhere = getattr(getattr(item, "cls", None), "elsewhere", ())
        (left if getattr(item, "originalname", item.name) in elsewhere else kept).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
