"""Why a server cannot be reached, in plain words: aiohttp's own are for programmers. For the command line."""

import os
from collections.abc import Sequence
from typing import Final

import aiohttp

_REASONS: Final[Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], str]]] = (
    (aiohttp.ClientConnectorDNSError, "there is no such host, or its name cannot be looked up."),
    (aiohttp.ClientConnectorCertificateError, "its TLS certificate is not trusted: {detail}."),
    (aiohttp.ClientSSLError, "it does not speak TLS here, or not in a way that can be read."),
    (aiohttp.ClientProxyConnectionError, "the proxy of the environment does not answer."),
    (aiohttp.ClientHttpProxyError, "the proxy of the environment answers {status}."),
    (aiohttp.TooManyRedirects, "it redirects in a circle."),
    (
        (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError),
        "its address, or one that it redirects to, is not a web URL.",
    ),
    (TimeoutError, "it does not answer in time."),
    (ConnectionRefusedError, "nothing listens there (connection refused)."),
    (ConnectionResetError, "the connection was reset."),
    (aiohttp.ServerDisconnectedError, "it closed the connection without an answer."),
    (aiohttp.ClientPayloadError, "the answer broke off."),
    (aiohttp.ClientResponseError, "its answer is not HTTP."),
)


def reason(error: BaseException) -> str:
    """Why a server cannot be reached, in plain words."""
    causes = (error, getattr(error, "os_error", None), error.__cause__)
    for kind, words in _REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            certificate = getattr(error, "certificate_error", None)
            detail = getattr(certificate, "verify_message", "") or str(certificate)
            return words.format(detail=detail.rstrip("."), status=getattr(error, "status", ""))
    number = getattr(error, "errno", None) or getattr(getattr(error, "os_error", None), "errno", None)
    return f"{os.strerror(number).lower()}." if number else "the connection was lost."
