"""Addresses on which the server listens: one family, or both on `::`."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from proxy.core.settings import BadSetting
from proxy.serving.server import listen
from tests.support.deployment import NO_AUTHORITIES, Deployment
from tests.support.npm import without


@contextmanager
def also_at(host: str) -> Iterator[socket.socket]:
    try:
        with listen(host, 0) as listening:
            yield listening
    except BadSetting:
        without("There is no IPv6 here")


def test_the_unspecified_address_accepts_both_families() -> None:
    with also_at("::") as listening:
        port = listening.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=5).close()


async def test_both_loopback_addresses_may_read_the_metrics_of_a_dual_socket(
    unstarted: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with also_at("::"):
        pass
    monkeypatch.setattr("tests.support.deployment.listen", lambda _, port: listen("::", port))
    async with unstarted as deployment:
        port = deployment.origin.rpartition(":")[2]
        async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as client:
            for host in ("127.0.0.1", "[::1]"):
                assert (await client.get(f"http://{host}:{port}/metrics")).status_code == 200


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_gets_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def absent(*_: object, **__: object) -> socket.socket:
        raise OSError(code, "Not here")

    monkeypatch.setattr(socket, "create_server", absent)
    with pytest.raises(BadSetting) as caught:
        listen("::", 8000)
    assert str(caught.value) == (
        "POLLCAST_HOST, POLLCAST_PORT: cannot listen on [::]:8000: Not here; "
        "this machine may have no IPv6: set POLLCAST_HOST=0.0.0.0 or an IPv4 address"
    )
