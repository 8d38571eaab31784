"""Messages for connection errors on the command line. aiohttp's own messages are written for programmers."""

import os
from collections.abc import Sequence
from typing import Final

import aiohttp

_REASONS: Final[Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], str]]] = (
    (aiohttp.ClientConnectorDNSError, "the host name cannot be resolved."),
    (aiohttp.ClientConnectorCertificateError, "its TLS certificate is not trusted: {detail}."),
    (aiohttp.ClientSSLError, "the TLS handshake failed."),
    (aiohttp.ClientProxyConnectionError, "the proxy set in the environment does not respond."),
    (aiohttp.ClientHttpProxyError, "the proxy set in the environment answered {status}."),
    (aiohttp.TooManyRedirects, "there are too many redirects."),
    (
        (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError),
        "its URL, or the target of a redirect, is not an http or https URL.",
    ),
    (TimeoutError, "the connection timed out."),
    (ConnectionRefusedError, "the connection was refused."),
    (ConnectionResetError, "the connection was reset."),
    (aiohttp.ServerDisconnectedError, "it closed the connection without a response."),
    (aiohttp.ClientPayloadError, "the response was incomplete."),
    (aiohttp.ClientResponseError, "its response is not valid HTTP."),
)


def reason(error: BaseException) -> str:
    """Return why a server cannot be reached, as the end of a sentence."""
    causes = (error, getattr(error, "os_error", None), error.__cause__)
    for kind, words in _REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            certificate = getattr(error, "certificate_error", None)
            detail = getattr(certificate, "verify_message", "") or str(certificate)
            return words.format(detail=detail.rstrip("."), status=getattr(error, "status", ""))
    number = getattr(error, "errno", None) or getattr(getattr(error, "os_error", None), "errno", None)
    return f"{os.strerror(number).lower()}." if number else "the connection was lost."
