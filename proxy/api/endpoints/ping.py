"""`pong`; and timed marks, by which `doctor` finds out what lies between a client and this server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from proxy.api.body import validated
from proxy.api.services import ApiServices
from proxy.core import sse
from proxy.core.clock import rfc3339
from proxy.core.errors import Unavailable
from proxy.providers.base import field_error

_LONGEST: Final = 90.0
"""Seconds that one such stream may last."""
_AT_ONCE: Final = 32
"""Such streams at once: anyone may ask for one."""


class _Plan(BaseModel):
    """What is asked for in the query, where all values are texts."""

    model_config = ConfigDict(extra="forbid")

    marks: Annotated[int, Field(ge=1, le=20)]
    gap: Annotated[int, Field(ge=0, le=15_000)] = 500
    """Milliseconds between two marks; heartbeats as in every stream."""
    silence: Annotated[float, Field(ge=0, le=_LONGEST, allow_inf_nan=False)] = 0
    """Seconds before the last mark, instead of its gap, without any heartbeat."""

    @model_validator(mode="after")
    def _bounded(self) -> "_Plan":
        if (self.marks - 1) * self.gap / 1000 + self.silence > _LONGEST:
            raise field_error("marks", f"marks, gap and silence make more than {_LONGEST:g} seconds together")
        return self


class Ping:
    """The endpoint of who wants to know whether, and how, this server is reached."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def ping(self, request: Request) -> Response:
        """AI-Now's own `pong`; with `?marks=N` a stream of N marks, under the headers of every other stream."""
        if not request.query_params.keys() & _Plan.model_fields.keys():
            return PlainTextResponse("pong", headers={"X-Content-Type-Options": "nosniff"})
        plan = validated(_Plan, request.query_params)
        if request.method == "HEAD":
            head = Response(headers=sse.HEADERS)
            del head.headers["Content-Length"]
            return head
        if self._room.locked():
            raise Unavailable("Too many ask for timed marks now.", headers={"Retry-After": "10"})
        return StreamingResponse(self._marks(plan), headers=sse.HEADERS)

    async def _marks(self, plan: _Plan) -> AsyncIterator[bytes]:
        async with self._room:
            yield sse.RETRY
            for n in range(1, plan.marks + 1):
                if n == plan.marks and plan.silence:
                    await self._services.clock.sleep(plan.silence)
                elif n > 1:
                    async for heartbeat in self._quiet(plan.gap / 1000):
                        yield heartbeat
                yield sse.frame(self._mark(n, plan), n)

    def _mark(self, n: int, plan: _Plan) -> bytes:
        at, heartbeat = rfc3339(self._services.clock.now()), self._services.feed.heartbeat
        return orjson.dumps({"mark": n, "of": plan.marks, "at": at, "heartbeat": heartbeat})

    async def _quiet(self, seconds: float) -> AsyncIterator[bytes]:
        """Let so much time pass, with heartbeats."""
        while seconds > self._services.feed.heartbeat:
            await self._services.clock.sleep(self._services.feed.heartbeat)
            seconds -= self._services.feed.heartbeat
            yield sse.HEARTBEAT
        await self._services.clock.sleep(seconds)
