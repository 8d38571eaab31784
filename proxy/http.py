"""uvicorn's HTTP/1.1 protocol, with three manners of ours.

Its own would lose the body of a request that offers `Upgrade: h2c`, answer what is no HTTP in plain text, and leave no
way to get rid of a connection whose client has stopped reading, nor to write to one without a coroutine for each write.
"""

import re
from typing import Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_END: Final = b"\r\n\r\n"
_OFFER: Final = re.compile(rb"\r\nupgrade:(?=[ \t]*h2c)", re.IGNORECASE)


class Http(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; an offer of h2c is ignored, as RFC 9110, section 7.8 allows.

        Java's HttpClient makes it on every plain http request; httptools skips the body behind an offer, so it is
        renamed before it is parsed. Only the head of a request is looked at, where one begins.
        """
        if self.cycle is None or self.cycle.response_complete:
            head, end, rest = data.partition(_HEAD_END)
            data = _OFFER.sub(b"\r\nx-upgrade:", head) + end + rest
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, in the one form that errors have."""
        body = orjson.dumps({"status": "Error", "message": msg, "code": "bad_request"})
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d"
        self.transport.write(head % len(body) + _HEAD_END + body)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request; its scope carries this connection, for streams."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self

    def push(self, chunk: bytes, /) -> bool:
        """Write a chunk of the response that is under way; False while the client has enough to read, or has gone."""
        # uvloop raises on a write to a connection that was reset, before its stream's task has heard of that.
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def abort(self) -> None:
        """Drop the connection with all that is still to be written."""
        self.transport.abort()
