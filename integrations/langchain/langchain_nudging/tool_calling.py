"""Tools and structured output of ``ChatNudging``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool

from nudging_llm import ConfigError
from nudging_llm.errors import nearest

from .structured import METHODS, Method, StructuredOutput, json_schema, schema_tool, tool_definition


class ToolCalling(BaseChatModel):
    """A chat model whose calls and structured answers a grammar holds to their schema."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        parallel_tool_calls: bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        Args:
            tools: LangChain tools, functions, pydantic classes, or dicts: OpenAI's, Anthropic's, JSON schemas with a title.
            tool_choice: "auto" (the default), "none", "any", "required" or True (some tool must be called), or a tool's name;
                OpenAI's and Anthropic's dicts too.
            parallel_tool_calls: whether several calls may be made in one answer. Default: only where the models choose freely; a
                small model that must call likes to make the same call twice.
            strict: no effect: in ``<tool_call>`` tags, which is how the models are asked to call, arguments always fit.
            kwargs: options for every call.

        Raises:
            ToolError: from the first call, if a tool or the choice is unusable.
            GrammarError: from the first call, if a tool must be called whose schema no grammar can hold (``uniqueItems``,
                fractional ``multipleOf`` …). In free choice its arguments are any object, with a warning.
        """
        bound: dict[str, Any] = {"tools": definitions(tools), **kwargs}
        if tool_choice is not None:
            bound["tool_choice"] = tool_choice
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**bound)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model, answering with values of a type. Whatever the models, the answer fits the schema: a grammar holds them.

        Args:
            schema: a pydantic class (the value is an instance), a ``TypedDict``, a JSON schema or an OpenAI function (a dict).
            method: "function_calling" (a forced call; both prompts show names and descriptions), "json_schema" or "json_mode"
                (JSON as the text; the prompts do not show the schema, so say in the messages what you want).
            include_raw: give ``{"raw": message, "parsed": value or None, "parsing_error": error or None}``; streamed, the last
                two come at the end.
            strict: no effect: it always is.
            kwargs: options for every call.

        Raises:
            ConfigError: an unknown method, or a schema that is none.
            GrammarError, ToolError: from the first call, if the schema cannot be enforced.
        """
        if method not in METHODS:
            raise ConfigError(f"method={method!r}: one of {', '.join(METHODS)}.{nearest(str(method), METHODS)}")
        shown = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        bound: Runnable[LanguageModelInput, AIMessage]
        if method == "function_calling":
            tool = schema_tool(schema)
            name = tool["function"]["name"]
            bound = self.bind_tools(
                [tool], tool_choice=name, parallel_tool_calls=False, ls_structured_output_format=shown, **kwargs
            )
        else:
            bound = self.bind(json_schema=json_schema(schema), ls_structured_output_format=shown, **kwargs)
        parser = StructuredOutput(target=schema, from_call=method == "function_calling", quiet=include_raw)
        if not include_raw:
            return bound | parser
        raw = itemgetter("raw")
        read = RunnablePassthrough.assign(
            parsed=raw | parser,
            parsing_error=raw | RunnableLambda(parser.problem),
        )
        return RunnableMap(raw=bound) | read


def definitions(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Tools of any kind that LangChain knows, as OpenAI's dicts."""
    return [tool_definition(tool) for tool in tools]
