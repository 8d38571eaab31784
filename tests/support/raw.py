"""A provider whose answers are bytes: heads, frames and ends as a test writes them, over a real socket."""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Said:
    """The bytes of one answer, and what becomes of its connection: closed, reset, or held open and silent."""

    pieces: tuple[bytes, ...]
    end: Literal["close", "reset", "hold"] = "close"


Frame = Callable[[bytes], Said]
"""The framing of a body."""


def head(*fields: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    named = [f"Content-Type: {content_type}"] if content_type else []
    return "\r\n".join([f"HTTP/1.1 {status}", *named, *fields, "", ""]).encode()


def sound(body: bytes) -> Said:
    return Said((head(f"Content-Length: {len(body)}", "Connection: close") + body,))


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Raw:
    """Answers each path with the body that is scripted for it, as `frame` frames it."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, str], bytes] = {}
        self.frame: Frame = sound
        self.heads: list[bytes] = []
        self.origin = ""
        self.over = asyncio.Event()

    def asked(self, method: str) -> int:
        return sum(asked.startswith(method.encode() + b" ") for asked in self.heads)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(asked))
            self.heads.append(asked)
            method, target, _ = asked.decode().split(" ", 2)
            said = self.frame(self.bodies[method, target.split("?")[0]])
            for piece in said.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)  # a packet of its own
            if said.end == "hold":
                await self.over.wait()
            if said.end == "reset":
                reset(writer)
        finally:
            writer.close()


def _length(asked: bytes) -> int:
    named = [line for line in asked.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(named[0].split(b":")[1]) if named else 0


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with a RST."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
