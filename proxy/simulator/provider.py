"""What every pretend provider has: a name, a table of operations, a way to read its key, and its own shape of error.

Each provider's file holds its rules and its words, written from that provider's page; `gate` calls them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from .files import Files
from .messages import Operation, Received, Refused
from .state import Job, State


class Strict(BaseModel):
    """A request's schema: no guessing of types, no field that the page does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(slots=True)
class Provider(ABC):
    """One provider's API. Its further fields are the options that tests may set."""

    state: State
    files: Files

    name: ClassVar[str]
    messages: ClassVar[Mapping[int, str]] = {}
    invalid_status: ClassVar[int] = 422

    @abstractmethod
    def operations(self) -> tuple[Operation, ...]:
        """The routes."""

    @abstractmethod
    def error(self, status: int, message: str = "") -> web.Response:
        """An error in the provider's own shape."""

    def invalid(self, error: ValidationError) -> web.Response:
        """The refusal of a body that breaks the schema."""
        first = error.errors(include_url=False, include_context=False)[0]
        return self.error(self.invalid_status, f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": "))

    def rejected(self) -> web.Response:
        """The refusal of parameters that a prompt asks for."""
        return self.error(self.invalid_status, "Invalid parameter: prompt")

    def no_credit(self) -> web.Response:
        """The refusal of an account without credit."""
        return self.error(402)

    def credential(self, received: Received) -> str | None:
        """The key that came with a request."""
        scheme, _, key = received.headers.get("Authorization", "").partition(" ")
        return key if scheme == "Bearer" else None

    def job_of(self, received: Received) -> Job | None:
        """The job that a request is about."""
        return self.state.jobs.get((self.name, received.params.get("job", "")))

    def message(self, status: int, message: str) -> str:
        """The message given, else the provider's for that status, else HTTP's."""
        return message or self.messages.get(status) or HTTPStatus(status).phrase

    def refuse(self, status: int, message: str = "") -> Refused:
        """An error to raise."""
        return Refused(self.error(status, message))

    def parsed(self, schema: type[Schema], body: object) -> Schema:
        """The body as its schema, or the provider's refusal."""
        try:
            return schema.model_validate(body)
        except ValidationError as error:
            raise Refused(self.invalid(error)) from None


def details(error: ValidationError, *prefix: str | int) -> list[dict[str, object]]:
    """FastAPI's list of what is wrong with a body: where, what, and the name of the rule."""
    return [
        {"loc": ["body", *prefix, *found["loc"]], "msg": found["msg"], "type": found["type"]}
        for found in error.errors(include_url=False, include_context=False)
    ]
