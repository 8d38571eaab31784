"""uvicorn server that opens and closes the application around its own start and stop."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final, cast

import uvicorn

from proxy.app import Pollcast
from proxy.core.settings import BadSetting, Settings, in_brackets
from proxy.serving.protocol import Http, Timeouts

log = logging.getLogger(__name__)

_NO_IPV6_ERRORS: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
"""Error numbers of a bind to an IPv6 address where the kernel has no IPv6, or has it switched off."""

_STOP_TIMEOUT: Final = 1
"""Seconds that a stop waits for clients that neither read nor disconnect."""


class Server(uvicorn.Server):
    """uvicorn's server, which also opens and closes the application.

    It opens the application before it listens, and raises an error of that start unchanged. On shutdown it ends the
    streams before it waits for them, and closes the application before it raises the stop signal again.
    """

    def __init__(
        self,
        app: Pollcast,
        settings: Settings,
        ready: Callable[[], None] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[Http]", partial(Http, timeouts=timeouts or Timeouts(idle=settings.keepalive))),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_STOP_TIMEOUT,
                # Links are built from POLLCAST_PUBLIC_URL, never from a request's headers.
                proxy_headers=False,
            )
        )
        self._app = app
        self._ready = ready
        self._open = AsyncExitStack()
        self._address = (in_brackets(settings.host), settings.port, settings.base_url)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application, then listen."""
        await self._open.enter_async_context(self._app.opened())
        try:
            await super().startup(sockets)
        except BaseException:
            await self._open.aclose()
            raise
        log.info("Pollcast %s listens on %s:%s; clients reach it at %s.", _version(), *self._address)
        if self._ready is not None:
            self._ready()

    async def main_loop(self) -> None:
        """Serve until a stop, or until a background task fails.

        A failed task cancels this coroutine. The server then shuts down in order, and `shutdown` raises the error.
        """
        with suppress(asyncio.CancelledError):
            await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, stop listening, then close the application."""
        self._app.stop_streams()
        try:
            await super().shutdown(sockets)
        finally:
            # Also after a background task failed and cancelled this shutdown: closing raises the task's error.
            await self._open.aclose()


def _version() -> str:
    try:
        return version("pollcast")
    except PackageNotFoundError:
        return "(a checkout)"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address. `::` also listens on IPv4. Raises BadSetting if the bind fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server((host, port), family=family, backlog=4096, dualstack_ipv6=both)
    except OSError as error:
        reason = error.strerror or str(error)
        if family == socket.AF_INET6 and error.errno in _NO_IPV6_ERRORS:
            reason += "; this machine may have no IPv6: set POLLCAST_HOST=0.0.0.0 or an IPv4 address"
        place = f"{in_brackets(host)}:{port}"
        raise BadSetting(f"POLLCAST_HOST, POLLCAST_PORT: cannot listen on {place}: {reason}") from None
    # Accepted connections inherit this option: an event must not wait for the acknowledgement of the previous one.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
