"""The ping endpoint: `pong`, or a stream of timed marks that shows what proxies do to streams.

The `doctor` command reads the marks to detect proxies between a client and this server.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from proxy.api.body import validate
from proxy.core import sse
from proxy.core.clock import Clock, rfc3339
from proxy.core.errors import Unavailable
from proxy.providers.fields import field_error

_MAX_PING_SECONDS: Final = 90.0
"""Maximum duration of a stream of marks, in seconds."""
_MAX_PING_STREAMS: Final = 32
"""Maximum number of concurrent streams of marks. They need no key."""
_RETRY_AFTER: Final = 10
"""Seconds after which a client is asked to try again when all streams are taken."""


class _Plan(BaseModel):
    """The query of a stream of marks. All values in a query are text."""

    model_config = ConfigDict(extra="forbid")

    marks: Annotated[int, Field(ge=1, le=20)]
    gap: Annotated[int, Field(ge=0, le=15_000)] = 500
    """Milliseconds between two marks. Heartbeats are sent as in every stream."""
    silence: Annotated[float, Field(ge=0, le=_MAX_PING_SECONDS, allow_inf_nan=False)] = 0
    """Seconds without a heartbeat before the last mark. It replaces that mark's gap."""

    @model_validator(mode="after")
    def _check_duration(self) -> "_Plan":
        if (self.marks - 1) * self.gap / 1000 + self.silence > _MAX_PING_SECONDS:
            raise field_error("marks", f"marks, gap and silence together exceed {_MAX_PING_SECONDS:g} seconds")
        return self


class Ping:
    """The ping endpoint. `heartbeat` is the time between two heartbeats of a stream, in seconds."""

    def __init__(self, clock: Clock, heartbeat: float) -> None:
        self._clock = clock
        self._heartbeat = heartbeat
        self._free_streams = asyncio.Semaphore(_MAX_PING_STREAMS)

    async def ping(self, request: Request) -> Response:
        """Return the text `pong`; with `?marks=N`, a stream of N marks under the headers of every other stream."""
        if not request.query_params.keys() & _Plan.model_fields.keys():
            return PlainTextResponse("pong", headers={"X-Content-Type-Options": "nosniff"})
        plan = validate(_Plan, request.query_params)
        if request.method == "HEAD":
            head = Response(headers=sse.HEADERS)
            del head.headers["Content-Length"]
            return head
        if self._free_streams.locked():
            raise Unavailable("Too many streams of marks are open.", headers={"Retry-After": str(_RETRY_AFTER)})
        return StreamingResponse(self._marks(plan), headers=sse.HEADERS)

    async def _marks(self, plan: _Plan) -> AsyncIterator[bytes]:
        async with self._free_streams:
            yield sse.RETRY
            for n in range(1, plan.marks + 1):
                if n == plan.marks and plan.silence:
                    await self._clock.sleep(plan.silence)
                elif n > 1:
                    async for heartbeat in self._heartbeats(plan.gap / 1000):
                        yield heartbeat
                yield sse.frame(self._mark(n, plan), n)

    def _mark(self, n: int, plan: _Plan) -> bytes:
        at = rfc3339(self._clock.now())
        return orjson.dumps({"mark": n, "of": plan.marks, "at": at, "heartbeat": self._heartbeat})

    async def _heartbeats(self, seconds: float) -> AsyncIterator[bytes]:
        """Wait for a number of seconds, and yield the heartbeats that are due in that time."""
        while seconds > self._heartbeat:
            await self._clock.sleep(self._heartbeat)
            seconds -= self._heartbeat
            yield sse.HEARTBEAT
        await self._clock.sleep(seconds)
