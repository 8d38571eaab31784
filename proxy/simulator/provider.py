"""Base class of the simulated providers: name, default key, routes, authentication and error format.

Each provider's module follows that provider's documentation. `dispatch` calls it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from .files import Files
from .messages import Operation, ReceivedRequest, Refusal
from .state import Job, State


class Strict(BaseModel):
    """Base class of request schemas. Types are not coerced, and unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(slots=True)
class Provider(ABC):
    """API of one provider. Fields of a subclass are options that tests may set."""

    state: State
    files: Files

    name: ClassVar[str]
    key: ClassVar[str]
    """API key that the provider accepts by default."""
    messages: ClassVar[Mapping[int, str]] = {}
    invalid_status: ClassVar[int] = 422

    @abstractmethod
    def operations(self) -> tuple[Operation, ...]:
        """Return the routes."""

    @abstractmethod
    def error(self, status: int, message: str = "") -> web.Response:
        """Return an error response in the provider's format."""

    def invalid(self, error: ValidationError) -> web.Response:
        """Return the error for a body that does not match the schema."""
        first = error.errors(include_url=False, include_context=False)[0]
        return self.error(self.invalid_status, f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": "))

    def reject(self) -> web.Response:
        """Return the parameter error that the prompt word `[reject]` causes."""
        return self.error(self.invalid_status, "Invalid parameter: prompt")

    def no_credit(self) -> web.Response:
        """Return the error for an account without credit."""
        return self.error(402)

    def credential(self, received: ReceivedRequest) -> str | None:
        """Return the API key of a request, or None."""
        scheme, _, key = received.headers.get("Authorization", "").partition(" ")
        return key if scheme == "Bearer" else None

    def job_of(self, received: ReceivedRequest) -> Job | None:
        """Return the job of a request, or None."""
        return self.state.jobs.get((self.name, received.params.get("job", "")))

    def message(self, status: int, message: str) -> str:
        """Return `message` if given, otherwise the provider's message for the status, otherwise HTTP's phrase."""
        return message or self.messages.get(status) or HTTPStatus(status).phrase

    def refuse(self, status: int, message: str = "") -> Refusal:
        """Return an exception with an error response, to be raised."""
        return Refusal(self.error(status, message))

    def parse(self, schema: type[Schema], body: object) -> Schema:
        """Return the body, validated against the schema. Raises Refusal with the provider's error."""
        try:
            return schema.model_validate(body)
        except ValidationError as error:
            raise Refusal(self.invalid(error)) from None


def details(error: ValidationError, *prefix: str | int) -> list[dict[str, object]]:
    """Return FastAPI's list of validation errors: location, message and type of each."""
    return [
        {"loc": ["body", *prefix, *found["loc"]], "msg": found["msg"], "type": found["type"]}
        for found in error.errors(include_url=False, include_context=False)
    ]
