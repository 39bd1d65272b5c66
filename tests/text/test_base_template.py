"""The base model's prompt: what the template writes, and mistakes in one."""

from __future__ import annotations

import pytest

import nudging_llm as n
from nudging_llm import BaseTemplate
from nudging_llm.text.messages import read_messages


def test_base_prompt():
    messages = read_messages(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": [{"type": "text", "text": "Use facts."}]},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."},
            {"role": "user", "content": "Really?"},
            {"role": "user", "content": "Sure?"},
        ]
    )
    assert BaseTemplate().render(messages) == (
        "Be brief.\n\nUse facts.\nQuestion: Why?\nAnswer: So.\nQuestion: Really?\n\nSure?\nAnswer:"
    )


def test_custom_base_template():
    template = BaseTemplate("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]", ("\n[",))
    assert template.render(read_messages("Hi")) == "[user] Hi\n[assistant]"


def test_base_template_is_sandboxed():
    from nudging_llm import TemplateError

    with pytest.raises(TemplateError):
        BaseTemplate("{{ messages.__class__.__mro__ }}x").render(read_messages("Hi"))


def test_base_template_mistakes(tiny_pair):
    with pytest.raises(n.TemplateError, match="line 1"):
        n.BaseTemplate("{% for %}")
    with pytest.raises(n.TemplateError, match="ends in"):
        n.BaseTemplate("Answer: ").render([{"role": "user", "content": "x"}])
    with pytest.raises(n.TemplateError, match="fails"):
        n.BaseTemplate("{{ nothing_there.x }}.").render([{"role": "user", "content": "x"}])
