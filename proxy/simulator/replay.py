"""A provider that says again what a flight recorder heard: a misbehaviour that was met once becomes a test.

Every path of the recorded job answers what it answered then, as often as it did; its last answer for ever after.
What broke off breaks off again; a connection that was never made is one that is closed without an answer.
"""

import base64
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

GRACE = 0.1
Place = tuple[str, str, tuple[tuple[str, str], ...]]


class Replay:
    """Plays the exchanges of one trace, as `trace JOB` prints them, one JSON object a line, on a port of its own."""

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        self._answers: dict[Place, deque[Mapping[str, Any]]] = {}
        self.unknown: list[str] = []
        """Paths that were asked for and are not in the trace; they are answered by 404."""
        for line in lines:
            exchange = orjson.loads(line)
            said = self._answers.setdefault(
                _place(exchange["method"], exchange["path"], exchange.get("query")), deque()
            )
            said.extend([exchange] * exchange.get("count", 1))
        self.origin = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=256 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.origin = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        said = self._answers.get(_place(request.method, request.path, dict(parse_qsl(request.query_string))))
        if said is None:
            self.unknown.append(request.path)
            return web.json_response({"detail": "not in the trace"}, status=404)
        exchange = said.popleft() if len(said) > 1 else said[0]
        body = base64.b64decode(exchange.get("base64", "")) or exchange.get("body", "").encode()
        response = web.StreamResponse(status=exchange.get("status", 200), headers=exchange.get("headers"))
        if "status" in exchange:
            await response.prepare(request)
            await response.write(body)
        if "error" in exchange and request.transport is not None:
            request.transport.close()  # it broke off here, or before the first word
        return response


def _place(method: str, path: str, query: Mapping[str, str] | None) -> Place:
    # What a submit's query holds may be the order's own; a poll's is what tells jobs apart.
    return method, path, tuple(sorted((query or {}).items())) if method == "GET" else ()
