"""An HTTP proxy of a few lines: CONNECT for https, absolute form for http, credentials, and refusals."""

import asyncio
import base64
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

HEAD_END = b"\r\n\r\n"


class ForwardProxy:
    """An HTTP forward proxy. If `refusal` is given, it answers with that instead.

    With `credentials` (`user:password`) it answers 407 to clients without them.
    """

    def __init__(self, credentials: str = "", refusal: bytes | None = None) -> None:
        self._expected = b"Proxy-Authorization: Basic " + base64.b64encode(credentials.encode()) if credentials else b""
        self._refusal = refusal
        self.heads: list[bytes] = []
        self.over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self._server.close()

    def targets(self) -> list[str]:
        """The request target, without method and version."""
        return [head.split(b" ")[1].decode() for head in self.heads]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(HEAD_END)
            self.heads.append(head)
            if self._refusal is not None:
                writer.write(self._refusal)
            elif self._expected not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            else:
                await self._forward(head, reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, version = head.split(b"\r\n")[0].decode().split(" ")
        if method == "CONNECT":
            host, port = target.rsplit(":", 1)
            onward = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urlsplit(target)
            onward = await asyncio.open_connection(url.hostname, url.port or 80)
            path = url.path + (f"?{url.query}" if url.query else "")
            lines = [line for line in head.split(b"\r\n")[1:] if not line.startswith((b"Proxy-", b"Connection:"))]
            onward[1].write(b"\r\n".join([f"{method} {path} {version}".encode(), b"Connection: close", *lines]))
        await asyncio.gather(_copied(reader, onward[1]), _copied(onward[0], writer))


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()
