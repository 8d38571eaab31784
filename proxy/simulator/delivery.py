"""Delivery of answers: one function per fault that changes the transfer of a response, and a table of them.

`dispatch` selects the fault. This module is independent of the providers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web
from multidict import CIMultiDict

from .faults import Fault, Kind
from .messages import Answer, File, Frames
from .prompt_faults import UNDOCUMENTED
from .state import State

FRAMES_BEFORE_CUT = 2
"""Number of frames that are sent before a stream is cut."""

STATUS_FIELDS = frozenset({"status", "gen_status"})
"""Fields whose value `unknown status` replaces."""

PAGE_TEMPLATE = "<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1><hr>nginx</body></html>"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, the provider's answer to it, and the fault that applies."""

    request: web.Request
    answer: Answer
    state: State
    fault: Fault | None = None

    def parts(self) -> tuple[int, CIMultiDict[str], bytes]:
        """Return the intact answer as status, headers and body."""
        if isinstance(self.answer, File):
            return 200, CIMultiDict({"Content-Type": self.answer.content_type}), self.answer.path.read_bytes()
        if isinstance(self.answer, Frames):
            return 200, CIMultiDict({"Content-Type": self.answer.content_type}), b""
        body = self.answer.body
        headers = CIMultiDict(self.answer.headers)
        headers.pop("Content-Length", None)
        return self.answer.status, headers, bytes(body) if isinstance(body, bytes | bytearray) else b""

    async def open(self, length: int | None = None) -> web.StreamResponse:
        """Send the headers. Without a length the body is chunked."""
        status, headers, _ = self.parts()
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = length
        await response.prepare(self.request)
        return response

    def hang_up(self) -> web.StreamResponse:
        """Close the connection. The client receives the bytes that were already written."""
        if self.request.transport is not None:
            self.request.transport.close()
        return web.Response()

    def abort(self) -> web.StreamResponse:
        """Reset the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return web.Response()


Delivery = Callable[[Exchange], Awaitable[web.StreamResponse]]
Change = Callable[[bytes], bytes]


def html_page(status: int, title: str) -> web.Response:
    """Return an HTML page, as proxies in front of an API send it instead of JSON."""
    return web.Response(status=status, text=PAGE_TEMPLATE.format(title=title), content_type="text/html")


async def deliver(exchange: Exchange) -> web.StreamResponse:
    """Send the answer, with the exchange's fault if it has one."""
    kind = exchange.fault.kind if exchange.fault else None
    delivery = DELIVERIES.get(kind, send) if kind else send
    try:
        return await delivery(exchange)
    finally:
        if isinstance(exchange.answer, Frames):
            await exchange.answer.pieces.aclose()


async def send(exchange: Exchange) -> web.StreamResponse:
    """Send the intact answer."""
    answer = exchange.answer
    if isinstance(answer, File):
        return web.FileResponse(answer.path, headers={"Content-Type": answer.content_type})
    if isinstance(answer, web.Response):
        return answer
    return await _stream(exchange, answer.pieces)


async def drop(exchange: Exchange) -> web.StreamResponse:
    """Close the connection without a response, after the request was processed."""
    return exchange.hang_up()


async def timeout(exchange: Exchange) -> web.StreamResponse:
    """Never respond, after the request was processed."""
    await exchange.state.stopping.wait()
    return exchange.hang_up()


async def cut(exchange: Exchange) -> web.StreamResponse:
    """Send half of the body, or some frames and half of the next, then close the connection."""
    response = await _send_half(exchange)
    exchange.hang_up()
    return response


async def stall(exchange: Exchange) -> web.StreamResponse:
    """Send the same half as `cut`, then nothing, and keep the connection open."""
    response = await _send_half(exchange)
    await exchange.state.stopping.wait()
    exchange.hang_up()
    return response


async def omit_last_frame(exchange: Exchange) -> web.StreamResponse:
    """End a stream cleanly before its final frame."""
    if not isinstance(exchange.answer, Frames):
        return await send(exchange)
    return await _stream(exchange, _first_frames(exchange.answer.pieces, FRAMES_BEFORE_CUT))


async def drip(exchange: Exchange) -> web.StreamResponse:
    """Send one byte at a time."""
    if isinstance(exchange.answer, Frames):
        return await _stream(exchange, _single_bytes(exchange.answer.pieces))
    _, _, body = exchange.parts()
    response = await exchange.open(len(body))
    for at in range(len(body)):
        await response.write(body[at : at + 1])
    return response


async def huge(exchange: Exchange) -> web.StreamResponse:
    """Send a body or a frame of the fault's size, by default 32 MiB."""
    response = await exchange.open()
    size = exchange.fault.size if exchange.fault else 0
    await response.write(b'data: {"padding": "' if isinstance(exchange.answer, Frames) else b'{"padding": "')
    for _ in range(size // 65536):
        await response.write(b"x" * 65536)
    await response.write(b'"}\n\n')
    return response


def change_body(change: Change) -> Delivery:
    """Return a delivery that applies `change` to the body, or to the data of every frame."""

    async def delivery(exchange: Exchange) -> web.StreamResponse:
        if isinstance(exchange.answer, Frames):
            return await _stream(exchange, _changed_frames(exchange.answer.pieces, change))
        status, headers, body = exchange.parts()
        return web.Response(status=status, headers=headers, body=change(body))

    return delivery


def change_json(change: Callable[[object], object]) -> Delivery:
    """Return a delivery that applies `change` to the parsed JSON. Other content is not changed."""

    def change_bytes(body: bytes) -> bytes:
        try:
            return orjson.dumps(change(orjson.loads(body)))
        except orjson.JSONDecodeError:
            return body

    return change_body(change_bytes)


def wrong_types(value: object) -> object:
    """Return the document with every value replaced by one of another type."""
    match value:
        case dict():
            return {key: wrong_types(inner) for key, inner in value.items()}
        case list():
            return {"0": [wrong_types(inner) for inner in value]}
        case str():
            return [len(value)]
        case None:
            return {}
        case _:
            return {"value": value}


def unknown_status(value: object) -> object:
    """Return the document with every status replaced by an undocumented one."""
    if isinstance(value, list):
        return [unknown_status(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: UNDOCUMENTED if key in STATUS_FIELDS and isinstance(inner, str) else unknown_status(inner)
        for key, inner in value.items()
    }


DELIVERIES: Mapping[Kind, Delivery] = {
    Kind.DROP: drop,
    Kind.TIMEOUT: timeout,
    Kind.CUT: cut,
    Kind.STALL: stall,
    Kind.UNFINISHED: omit_last_frame,
    Kind.DRIP: drip,
    Kind.HUGE: huge,
    Kind.MALFORMED: change_body(lambda body: body[: len(body) // 2]),
    Kind.EMPTY: change_body(lambda _: b""),
    Kind.WRONG_TYPES: change_json(wrong_types),
    Kind.UNKNOWN_STATUS: change_json(unknown_status),
}
"""Delivery of each kind of fault. Other kinds are sent intact, because `dispatch` has replaced the answer."""


async def _stream(exchange: Exchange, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    response = await exchange.open()
    async for piece in pieces:
        await response.write(piece)
    return response


async def _send_half(exchange: Exchange) -> web.StreamResponse:
    if isinstance(exchange.answer, Frames):
        return await _stream(exchange, _frames_until_cut(exchange.answer.pieces))
    _, _, body = exchange.parts()
    response = await exchange.open(len(body))
    await response.write(body[: len(body) // 2])
    return response


async def _first_frames(pieces: AsyncIterator[bytes], number: int) -> AsyncIterator[bytes]:
    sent = 0
    async for piece in pieces:
        if sent == number:
            return
        sent += 1
        yield piece


async def _frames_until_cut(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    sent = 0
    async for piece in pieces:
        if sent == FRAMES_BEFORE_CUT:
            yield piece[: len(piece) // 2]
            return
        sent += 1
        yield piece


async def _single_bytes(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for at in range(len(piece)):
            yield piece[at : at + 1]


async def _changed_frames(pieces: AsyncIterator[bytes], change: Change) -> AsyncIterator[bytes]:
    async for piece in pieces:
        body = change(piece.strip().removeprefix(b"data: "))
        if body:
            yield b"data: " + body + b"\n\n"
