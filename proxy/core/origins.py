"""Origins of web pages (RFC 6454): reads what operators write, and matches what browsers send."""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from yarl import URL

_WRITTEN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>[^\s/?#\\]+)/?", re.IGNORECASE)
_APP_SCHEMES: Final = frozenset({"capacitor", "ionic", "tauri", "app"})
"""Schemes under which app frameworks serve their pages (Capacitor, Ionic, Tauri, Electron; checked 2026-11)."""
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\.?")
_EXAMPLE: Final = "write https://app.example.com, https://*.example.com, null or *"


def normalize(text: str) -> str:
    """Return the origin as a browser sends it; a leading `*.` matches subdomains. Raises ValueError with the reason."""
    if text.lower() in {"*", "null"}:
        return text.lower()
    if "@" in text:
        raise ValueError("an origin has no user name or password")
    if text.lower().startswith("file:"):
        raise ValueError(f"{text!r}: pages from files have the origin null; write null")
    parts = _WRITTEN.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not an origin, which has a scheme and a host but no path; {_EXAMPLE}")
    scheme, rest = parts["scheme"].lower(), parts["rest"]
    if scheme in {"http", "https"}:
        return _web(text, scheme, rest)
    if scheme in _APP_SCHEMES or scheme.endswith("-extension"):
        return _app(text, scheme, rest)
    raise ValueError(
        f"{text!r}: the scheme is neither http, https, {', '.join(sorted(_APP_SCHEMES))} nor that of an extension"
    )


def _web(text: str, scheme: str, rest: str) -> str:
    """Return an http or https origin. Browsers send the host in lower case and punycode, without the default port."""
    wildcard = "*." if rest.startswith("*.") else ""
    rest = rest.removeprefix("*.")
    if "*" in rest:
        raise ValueError(f"{text!r}: * stands only for a whole origin or, as in https://*.example.com, for subdomains")
    try:
        url = URL(f"{scheme}://{rest}").origin()
        host = url.host_subcomponent or ""
    except ValueError:
        raise ValueError(f"{text!r}: the host or the port is not valid; {_EXAMPLE}") from None
    if not _is_host(host) or url.explicit_port == 0 or (wildcard and _is_address(host)):
        raise ValueError(f"{text!r}: the host or the port is not valid; {_EXAMPLE}")
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{scheme}://{wildcard}{host}{port}"


def _app(text: str, scheme: str, rest: str) -> str:
    if not re.fullmatch(r"[a-z0-9._-]+(?::[0-9]{1,5})?", rest, re.IGNORECASE):
        raise ValueError(f"{text!r}: the host is not valid; an app's or extension's origin is written in full")
    return f"{scheme}://{rest.lower()}"


def _is_host(host: str) -> bool:
    """Return whether browsers accept this host. A last label of digits makes it an IPv4 address."""
    if _is_address(host):
        return True
    return bool(_HOST.fullmatch(host)) and not host.rstrip(".").rpartition(".")[2].isdigit()


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Origins:
    """A set of origins, some with a leading `*.`, which matches subdomains of any depth but not the domain itself."""

    def __init__(self, origins: Iterable[str]) -> None:
        listed = frozenset(origins)
        self.all = "*" in listed
        self._exact = frozenset(origin for origin in listed if "*" not in origin)
        self._within = tuple(origin.split("*") for origin in listed if "://*." in origin)

    def __bool__(self) -> bool:
        return self.all or bool(self._exact or self._within)

    def __contains__(self, origin: str) -> bool:
        """Return whether the set contains this origin. Browsers differ in the case of extensions' ids."""
        sent = origin.lower()
        return self.all or sent in self._exact or any(_is_within(sent, *parts) for parts in self._within)


def _is_within(origin: str, scheme: str, domain: str) -> bool:
    below = origin.removeprefix(scheme).removesuffix(domain)
    return origin == f"{scheme}{below}{domain}" and bool(_HOST.fullmatch(below))
