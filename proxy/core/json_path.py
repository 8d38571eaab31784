"""Paths into JSON answers: the part of JMESPath that only walks.

A path has names (`data.task_id`), numbers (`output[0]`) and lists (`images[].url`). Functions, filters, slices,
literals and pipes are refused, so that a path can also be written backwards: `build` makes an answer that has a value
there, for the simulator.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

EACH: Final = None
"""The step of a path into every item of a list."""

Step = str | int | None
"""One step of a path: a name, a list's index, or `EACH`."""


class JsonPath:
    """A path into JSON."""

    __slots__ = ("_compiled", "_names", "steps", "text")

    def __init__(self, text: str) -> None:
        """Compile a path. Raises ValueError, with what is allowed, for anything else."""
        try:
            self._compiled = jmespath.compile(text)
            self.steps: tuple[Step, ...] = tuple(_steps(self._compiled.parsed))
        except (JMESPathError, ValueError):
            rule = "must be a path of names, indexes and lists, such as data.videos[].url"
            raise ValueError(f"{rule}, not {text!r}") from None
        self.text = text
        self._names = [step for step in self.steps if isinstance(step, str)]
        if len(self._names) < len(self.steps):
            self._names = []

    def find(self, document: object) -> Any:
        """Return the value at the path: a list if the path has one; None if there is none."""
        if not self._names:
            return self._compiled.search(document)
        for name in self._names:  # most paths have names only, and are read at each poll
            if not isinstance(document, dict):
                return None
            document = document.get(name)
        return document

    def build(self, value: object) -> Any:
        """Return a document that has `value` at the path; in place of each list, a list with one item."""
        for step in reversed(self.steps):
            value = {step: value} if isinstance(step, str) else [*([None] * (step or 0)), value]
        return value

    def __repr__(self) -> str:
        return f"JsonPath({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonPath) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A path in a file is a text."""
        del source, handler
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))


def _steps(node: Mapping[str, Any]) -> Iterator[Step]:
    """Yield the steps of a parsed expression. Raises ValueError for an expression that does more than walk."""
    match node["type"]:
        case "field" | "index":
            yield node["value"]
        case "subexpression" | "index_expression":
            for child in node["children"]:
                yield from _steps(child)
        case "projection":
            inside, after = node["children"]
            yield from _steps(inside["children"][0] if inside["type"] == "flatten" else inside)
            yield EACH
            yield from _steps(after)
        case "identity" | "current":
            return
        case other:
            raise ValueError(other)
