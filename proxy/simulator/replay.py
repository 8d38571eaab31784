"""Replay server: answers with the responses of a recorded trace, so that a provider's fault becomes a test.

Each path returns its recorded responses in order, and then repeats the last one. An interrupted response is
interrupted again. A failed connection is replayed as one that closes without a response.
"""

import base64
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

STOP_TIMEOUT = 0.1
"""Seconds that open requests have to end when the server stops."""

RequestKey = tuple[str, str, tuple[tuple[str, str], ...]]


class Replay:
    """Server that replays one trace on its own port. The lines are the output of `trace JOB`."""

    def __init__(self, lines: Iterable[str | bytes]) -> None:
        self._answers: dict[RequestKey, deque[Mapping[str, Any]]] = {}
        self.unknown_paths: list[str] = []
        """Requested paths that are not in the trace. They get a 404."""
        for line in lines:
            exchange = orjson.loads(line)
            responses = self._answers.setdefault(
                _request_key(exchange["method"], exchange["path"], exchange.get("query")), deque()
            )
            responses.extend([exchange] * exchange.get("count", 1))
        self.origin = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=256 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT)
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
        responses = self._answers.get(_request_key(request.method, request.path, dict(parse_qsl(request.query_string))))
        if responses is None:
            self.unknown_paths.append(request.path)
            return web.json_response({"detail": "not in the trace"}, status=404)
        exchange = responses.popleft() if len(responses) > 1 else responses[0]
        body = base64.b64decode(exchange.get("base64", "")) or exchange.get("body", "").encode()
        response = web.StreamResponse(status=exchange.get("status", 200), headers=exchange.get("headers"))
        if "status" in exchange:
            await response.prepare(request)
            await response.write(body)
        if "error" in exchange and request.transport is not None:
            request.transport.close()  # the recorded response was interrupted, or never began
        return response


def _request_key(method: str, path: str, query: Mapping[str, str] | None) -> RequestKey:
    # A submit's query may depend on the order, so it is ignored. A poll's query identifies the job.
    return method, path, tuple(sorted((query or {}).items())) if method == "GET" else ()
