"""Fetching of foreign URLs, and the guard against SSRF."""

import asyncio
import gzip
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager
from threading import Event
from typing import Any, Final

import pytest
from aiohttp import (
    ClientConnectorCertificateError,
    ClientPayloadError,
    ConnectionTimeoutError,
    SocketTimeoutError,
    web,
)
from yarl import URL

from proxy.upstream.fetch import Fetched, Fetcher, FetchFailed, FileTooLarge, ProviderOrigin, Remote
from proxy.upstream.sessions import failure_reason
from proxy.upstream.ssrf import NotPublic, check_public, check_url, current_account, is_public
from proxy.upstream.times import UpstreamTimes
from tests.support.root import ROOT
from tests.support.site import Handler, Rerouted, Site

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
CREDENTIAL = {"Authorization": "Bearer sk-secret"}
NO_NAMES: Final = [
    "https://a..b.example/cat.png",
    "https://example.com../cat.png",
    "https://.example.com/cat.png",
    "https://./cat.png",
    f"https://{'a' * 64}.example/cat.png",
    "https://a\0b.example/cat.png",
    "https://a\x7fb.example/cat.png",
    "https://ü。。example/cat.png",
]
"""URLs with hosts that resolvers refuse."""


async def left(request: web.Request) -> None:
    """Return when the client has disconnected."""
    while request.transport is not None:
        await asyncio.sleep(0.005)


def own_of(site: Site) -> ProviderOrigin:
    return ProviderOrigin(URL(site.url), CREDENTIAL)


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"Hello from {request.path_qs}")


def redirect(location: str, status: int = 302) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": location})

    return answer


async def countdown(request: web.Request) -> web.Response:
    """Redirect /3 to 2, 2 to 1 and 1 to 0, which answers."""
    left = int(request.path[1:])
    return web.Response(status=302, headers={"Location": str(left - 1)}) if left else web.Response(text="here")


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher() as fetcher:
        yield fetcher


async def text_of(opened: AbstractAsyncContextManager[Remote]) -> str:
    async with opened as remote:
        return b"".join([piece async for piece in remote.pieces()]).decode()


def names(monkeypatch: pytest.MonkeyPatch, *answers: str | OSError) -> None:
    """Answer the next lookups with these values in order, and repeat the last one."""
    left = list(answers)
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **named: Any) -> list[Any]:
        if not str(host).endswith(".example") and host != "example.com":
            return real(host, port, *rest, **named)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer.split()]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Block the lookups of names under `hangs.example` until the test ends."""
    over, real = Event(), socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **named: Any) -> list[Any]:
        if str(host).endswith("hangs.example"):
            over.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "later")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    over.set()


# --- addresses ---


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",  # Alibaba's metadata
        "192.0.0.192",  # Oracle's metadata; `ipaddress` calls it global in older versions
        "168.63.129.16",  # Azure's host; global by every registry
        "0.0.0.0",  # noqa: S104
        "0.1.2.3",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
        "100::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_an_address_of_a_private_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "fec0::1", "5f00::1"])
def test_an_ipv6_address_outside_global_unicast_is_not_public(address: str) -> None:
    # IPv4-compatible, IPv4-translated, local NAT64, site-local, segment routing: `ipaddress` calls them global.
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "172.32.0.1",
        "100.128.0.1",
        "169.253.0.1",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::1",
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


# --- URLs ---


@pytest.mark.parametrize(
    "url", ["https://example.com/cat.png", "HTTPS://example.com:8443", "https://[2606:4700::1]/", "https://1.1.1.1/"]
)
def test_a_public_https_url_passes(url: str) -> None:
    assert check_url(url) == URL(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cat.png",
        "//example.com/cat.png",
        "http://example.com/cat.png",
        "ftp://example.com/cat.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "https:///cat.png",
        "https://",
        "https://[",
        "https://example.com:99999/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://127.0.0.1/",
        "https://10.0.0.1:8443/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fd00::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[2002:a9fe:a9fe::]/",
        "https://2130706433/",
        "https://134744072/",
        "https://0177.0.0.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://010.8.8.8/",
        "https://example.com:22/",
        "https://example.com:25/",
        "https://example.com:0/",
        "https://1.1.1.1:110/",
        "https://１２７.0.0.1/",  # noqa: RUF001
        *NO_NAMES,
    ],
)
def test_a_url_that_is_not_public_https_is_refused(url: str) -> None:
    with pytest.raises(NotPublic):
        check_url(url)


@pytest.mark.parametrize("url", ["https://example.com:80/", "https://example.com:1024/", "https://example.com:65535/"])
def test_http_ports_and_unprivileged_ports_pass(url: str) -> None:
    assert check_url(url) == URL(url)


def test_a_password_without_a_user_is_refused() -> None:
    with pytest.raises(NotPublic):
        check_url("https://:password@example.com/")


def test_a_host_that_cannot_be_decoded_is_refused() -> None:
    # yarl takes it, and raises UnicodeError when its `host` is read.
    with pytest.raises(NotPublic):
        check_url("https://xn--/")


@pytest.mark.parametrize(
    "url",
    [
        "https://bücher.example/",
        "https://straße.example/",
        "https://xn--strae-oqa.example/",
        "https://💩.example/",
        "https://a_b.example/",
        "https://example.com./",
        f"https://{'a' * 63}.example/",
    ],
)
def test_every_valid_name_passes(url: str) -> None:
    assert check_url(url) == URL(url)


# --- names ---


async def test_the_checked_name_is_the_connected_one(monkeypatch: pytest.MonkeyPatch, fetcher: Fetcher) -> None:
    asked = list[str]()

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    await check_public("https://straße.example/")
    with pytest.raises(FetchFailed):
        await fetcher.read("https://straße.example/", 1000)
    assert asked == ["xn--strae-oqa.example"] * 2


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost/",
        "https://LOCALHOST:8443/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://ⓛocalhost/",
    ],
)
async def test_a_name_or_notation_of_a_private_address_is_refused(url: str) -> None:
    with pytest.raises(NotPublic):
        await check_public(url)


async def test_a_literal_private_address_is_refused_without_a_lookup() -> None:
    with pytest.raises(NotPublic):
        await check_public("https://127.0.0.1/")


async def test_a_name_of_public_addresses_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "1.1.1.1 8.8.8.8")
    await check_public("https://example.com/")


async def test_a_name_with_one_private_address_among_its_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "1.1.1.1 10.0.0.1")
    with pytest.raises(NotPublic, match=r"example\.com"):
        await check_public("https://example.com/")


async def test_a_name_that_cannot_be_looked_up_now_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, socket.gaierror(socket.EAI_AGAIN, "later"))
    await check_public("https://example.com/")


# --- hanging lookups ---

HANGING: Final = [f"https://{n}.hangs.example/cat.png" for n in range(64)]
"""More URLs than an event loop has threads."""


@pytest.mark.usefixtures("hanging")
async def test_hanging_names_in_orders_delay_no_other_lookup() -> None:
    await others_are_looked_up_while(*map(check_public, HANGING))


@pytest.mark.usefixtures("hanging")
async def test_hanging_names_in_reads_delay_no_other_lookup(fetcher: Fetcher) -> None:
    await others_are_looked_up_while(*(fetcher.read(url, 1000) for url in HANGING))


@pytest.mark.usefixtures("hanging")
async def test_hanging_names_of_one_account_delay_no_other_account() -> None:
    async def look_up(account: str, url: str) -> None:
        current_account.set(account)
        await check_public(url, timeout=10)

    hanging = [asyncio.create_task(look_up(f"acct_{n % 8}", url)) for n, url in enumerate(HANGING)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(NotPublic):
            await asyncio.create_task(look_up("acct_good", "https://localhost/"))
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def others_are_looked_up_while(*asking: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(one) for one in asking]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 443)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.usefixtures("hanging")
async def test_a_queued_lookup_waits_at_most_for_its_timeout() -> None:
    async with asyncio.timeout(2):
        await asyncio.gather(*(check_public(url, timeout=0.2) for url in HANGING))


async def test_a_canceled_lookup_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    over, asked = Event(), list[str]()

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        over.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with Fetcher(UpstreamTimes(lookup_to_connect=0.2)) as fetcher:
        await asyncio.gather(*(fetcher.read(url, 1000) for url in HANGING), return_exceptions=True)
        hung = len(asked)
        over.set()
        with pytest.raises(FetchFailed):
            await fetcher.read("https://last.example/", 1000)
    assert asked[hung:] == ["last.example"]


_LEAVING: Final = """
import asyncio, socket, time
from proxy.upstream import ssrf
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
asyncio.run(ssrf.check_public("https://hangs.example/", timeout=0.1))
"""


async def test_the_process_ends_while_a_lookup_hangs() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _LEAVING, cwd=ROOT)
    try:
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# --- opening a foreign URL ---


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:7f00:1]"]
)
async def test_a_foreign_url_does_not_reach_this_machine(fetcher: Fetcher, host: str) -> None:
    # Which of the two does not matter: aiohttp itself refuses the spellings that are all digits and dots.
    async with Site(hello) as site:
        with pytest.raises((NotPublic, FetchFailed)):
            await text_of(fetcher.open(f"http://{host}:{site.port}/"))
        assert site.asked == []


async def test_a_rebinding_name_is_refused(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "1.1.1.1", "127.0.0.1")
    async with Site(hello) as site:
        url = f"https://rebinding.example:{site.port}/"
        await check_public(url)
        with pytest.raises(NotPublic, match=r"rebinding\.example"):
            await text_of(fetcher.open(url))
        assert site.asked == []


@pytest.mark.parametrize("url", ["ftp://example.com/", "file:///etc/passwd", "/etc/passwd", "http:///x"])
async def test_other_schemes_are_not_opened(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(NotPublic):
        await text_of(fetcher.open(url))


@pytest.mark.parametrize("url", ["https://[", "https://example.com:99999/", *NO_NAMES])
async def test_malformed_text_is_not_opened(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(NotPublic):
        await text_of(fetcher.open(url))


@pytest.mark.parametrize("url", ["cat.png", "/cat.png", "mailto:cat@example.com"])
async def test_a_url_without_an_origin_is_refused(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(NotPublic):
        await text_of(fetcher.open(url, own=ProviderOrigin(URL("https://api.example.com"))))


# --- the provider's own origin ---


async def test_the_origin_may_have_any_address_and_gets_the_credential(fetcher: Fetcher) -> None:
    async with Site(hello) as site:
        opened = fetcher.open(f"{site.url}/cat?size=1", headers={"Range": "bytes=0-1"}, own=own_of(site))
        assert await text_of(opened) == "Hello from /cat?size=1"
        (request,) = site.asked
        assert request.headers["Authorization"] == "Bearer sk-secret"
        assert request.headers["Range"] == "bytes=0-1"
        assert request.headers["Accept-Encoding"] == "identity"


SIGNED = "/a%2fb/~%7E?u=https%3A%2F%2Fa&f=*%3DUTF-8%27%27my%2Ffilm&Signature=a%2Bb"


async def test_a_url_is_requested_verbatim_because_it_may_be_signed(fetcher: Fetcher) -> None:
    async with Site(hello) as site:
        await text_of(fetcher.open(f"{site.url}{SIGNED}", own=own_of(site)))
        assert [request.raw_path for request in site.asked] == [SIGNED]


@pytest.mark.parametrize("relative", [True, False])
async def test_a_redirect_is_followed_verbatim(fetcher: Fetcher, *, relative: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        begins = request.raw_path == "/"
        return await (redirect(SIGNED if relative else f"http://{request.host}{SIGNED}") if begins else hello)(request)

    async with Site(answer) as site:
        await text_of(fetcher.open(f"{site.url}/", own=own_of(site)))
        assert [request.raw_path for request in site.asked] == ["/", SIGNED]


async def test_another_port_of_the_own_host_is_another_origin(fetcher: Fetcher) -> None:
    async with Site(hello) as own, Site(hello) as other:
        with pytest.raises(NotPublic):
            await text_of(fetcher.open(f"{other.url}/", own=own_of(own)))
        assert other.asked == []


@pytest.mark.parametrize("url", ["https://a.example/x", "https://a.example:443/", "https://A.example"])
def test_an_origin_is_scheme_host_and_port(url: str) -> None:
    # yarl itself compares ports as they are written.
    assert ProviderOrigin(URL("https://a.example/v1")).covers(URL(url))


@pytest.mark.parametrize(
    "url", ["http://a.example/", "https://a.example:8443/", "https://b.a.example/", "https://a.example.evil/"]
)
def test_an_origin_covers_no_other(url: str) -> None:
    assert not ProviderOrigin(URL("https://a.example/v1")).covers(URL(url))


def test_a_credential_is_not_shown() -> None:
    assert "sk-secret" not in repr(ProviderOrigin(URL("https://a.example"), CREDENTIAL))


async def test_cookies_are_not_kept(fetcher: Fetcher) -> None:
    async def baker(_: web.Request) -> web.Response:
        return web.Response(headers={"Set-Cookie": "who=first; Path=/"})

    async with Site(baker) as site:
        origin = f"http://localhost:{site.port}"
        for _ in range(2):
            await text_of(fetcher.open(f"{origin}/", own=ProviderOrigin(URL(origin))))
        assert [request.headers.get("Cookie") for request in site.asked] == [None, None]


# --- redirects ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_relative_redirect_is_followed_with_credential_and_headers(fetcher: Fetcher, status: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await (hello if request.path == "/b/new" else redirect("../b/new?x=1", status))(request)

    async with Site(answer) as site:
        opened = fetcher.open(f"{site.url}/a/old", headers={"Range": "bytes=0-"}, own=own_of(site))
        assert await text_of(opened) == "Hello from /b/new?x=1"
        assert [request.headers["Authorization"] for request in site.asked] == ["Bearer sk-secret"] * 2
        assert [request.headers["Range"] for request in site.asked] == ["bytes=0-"] * 2


async def test_a_head_request_stays_one_over_redirects(fetcher: Fetcher) -> None:
    async with Site(countdown) as site:
        await text_of(fetcher.open(f"{site.url}/1", method="HEAD", own=own_of(site)))
        assert [request.method for request in site.asked] == ["HEAD", "HEAD"]


async def test_a_redirect_to_another_port_of_this_machine_is_refused(fetcher: Fetcher) -> None:
    async with Site(hello) as inside, Site(redirect(f"{inside.url}/secrets")) as site:
        with pytest.raises(NotPublic):
            await text_of(fetcher.open(f"{site.url}/", own=own_of(site)))
        assert len(site.asked) == 1
        assert inside.asked == []


async def test_a_redirect_to_another_origin_goes_without_the_credential(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.upstream.ssrf.is_public", lambda _: True)  # this machine plays the internet
    async with Site(hello) as elsewhere, Site(redirect(f"{elsewhere.url}/cat")) as site:
        assert await text_of(fetcher.open(f"{site.url}/", own=own_of(site))) == "Hello from /cat"
        assert "Authorization" in site.asked[0].headers
        assert "Authorization" not in elsewhere.asked[0].headers


async def test_a_redirect_back_to_the_origin_has_the_credential_again(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.upstream.ssrf.is_public", lambda _: True)
    async with Site(hello) as site, Site(redirect(f"{site.url}/back")) as elsewhere:
        assert await text_of(fetcher.open(f"{elsewhere.url}/", own=own_of(site))) == "Hello from /back"
        assert "Authorization" not in elsewhere.asked[0].headers
        assert "Authorization" in site.asked[0].headers


@pytest.mark.parametrize(
    "location",
    [
        "ftp://example.com/",
        "http://10.0.0.1/",
        "http://localhost:1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::a00:1]/",
        "http://2852039166/",
        "http://0251.0376.0251.0376/",
        "//127.0.0.1:8443/",
        "https://example.com:6/",
        "https://a..b.example/",
    ],
)
async def test_a_redirect_is_checked_like_any_foreign_url(fetcher: Fetcher, location: str) -> None:
    async with Site(redirect(location)) as site:
        with pytest.raises(NotPublic):
            await text_of(fetcher.open(f"{site.url}/", own=own_of(site)))


@pytest.mark.parametrize(
    "location", ["http://[", "mailto:cat@example.com", "file:///etc/passwd", "http://example.com:99999/"]
)
async def test_a_malformed_redirect_is_not_followed(fetcher: Fetcher, location: str) -> None:
    async with Site(redirect(location)) as site:
        with pytest.raises((NotPublic, FetchFailed)):
            await text_of(fetcher.open(f"{site.url}/", own=own_of(site)))


async def test_a_redirect_without_a_location_is_the_answer(fetcher: Fetcher) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=302, text="nowhere")

    async with Site(answer) as site, fetcher.open(f"{site.url}/", own=own_of(site)) as response:
        assert response.status == 302


async def test_five_redirects_are_followed(fetcher: Fetcher) -> None:
    async with Site(countdown) as site:
        assert await text_of(fetcher.open(f"{site.url}/5", own=own_of(site))) == "here"


async def test_more_than_five_redirects_are_not_followed(fetcher: Fetcher) -> None:
    async with Site(countdown) as site:
        with pytest.raises(FetchFailed, match="redirects more than 5 times") as caught:
            await text_of(fetcher.open(f"{site.url}/100", own=own_of(site)))
        assert caught.value.reached
        assert len(site.asked) <= 6


# --- errors ---


async def test_a_closed_port_was_not_reached(fetcher: Fetcher) -> None:
    async with Site(hello) as site:
        pass
    with pytest.raises(FetchFailed, match=r"^127\.0\.0\.1 cannot be reached: it takes no connection\.$") as caught:
        await text_of(fetcher.open(f"{site.url}/", own=own_of(site)))
    assert not caught.value.reached


async def test_a_failed_lookup_is_reported(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, socket.gaierror(socket.EAI_NONAME, "unknown"))
    with pytest.raises(FetchFailed, match=r"^nowhere\.example cannot be reached: its name cannot be looked up\.$"):
        await fetcher.read("https://nowhere.example/", 1000)


async def test_a_host_without_http_is_reported() -> None:
    assert await complaint(b"220 mail.example ESMTP\r\n") == "its answer cannot be read"


async def test_a_host_that_closes_the_connection_is_reported() -> None:
    assert await complaint(b"") == "the connection ended too early"


async def complaint(answer: bytes) -> str:
    """Return the error of a server that answers every request with these bytes and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, Fetcher() as fetcher:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(FetchFailed) as caught:
            await text_of(fetcher.open(url, own=ProviderOrigin(URL(url))))
    return str(caught.value).removeprefix("127.0.0.1 cannot be reached: ").removesuffix(".")


PLACE: Any = None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionTimeoutError(), "it does not answer in time"),
        (SocketTimeoutError(), "it does not answer in time"),
        (ClientConnectorCertificateError(PLACE, Exception()), "its certificate cannot be trusted"),
        (ClientPayloadError(), "the connection ended too early"),
    ],
)
def test_the_reason_of_a_failed_connection_is_a_plain_clause(error: Exception, reason: str) -> None:
    assert failure_reason(error) == reason


async def test_an_answer_of_any_status_is_an_answer(fetcher: Fetcher) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=404)

    async with Site(answer) as site, fetcher.open(f"{site.url}/", own=own_of(site)) as response:
        assert response.status == 404


# --- reading a client's URL ---


async def read(
    answer: Handler,
    url: str = "https://example.com/cat.png?signature=hush",
    limit: int = 1000,
    timeout: float = 120,  # noqa: ASYNC109
) -> Fetched:
    async with Site(answer) as site, Rerouted(site, UpstreamTimes(fetch_client_url=timeout)) as fetcher:
        return await fetcher.read(url, limit)


async def picture(_: web.Request) -> web.Response:
    return web.Response(body=PNG, content_type="text/html")


async def test_a_file_is_read_whole_and_typed_by_its_bytes() -> None:
    assert await read(picture) == Fetched(PNG, "image/png")


async def test_bytes_of_an_unsupported_type_have_none() -> None:
    assert (await read(hello)).type is None


async def test_a_file_of_just_the_limit_is_read() -> None:
    assert (await read(picture, limit=len(PNG))).data == PNG


async def test_a_file_over_the_limit_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    with pytest.raises(FetchFailed, match="larger than 200000 bytes") as caught:
        await read(endless, limit=200_000)
    assert caught.value.reached


async def test_a_missing_file_is_reported_with_its_status_without_the_query() -> None:
    async def gone(_: web.Request) -> web.Response:
        return web.Response(status=410)

    with pytest.raises(FetchFailed, match=r"^https://example\.com/cat\.png answered 410\.$") as caught:
        await read(gone)
    assert caught.value.reached


async def test_a_file_that_breaks_off_is_refused() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(PNG)
        assert request.transport
        request.transport.close()
        return response

    with pytest.raises(FetchFailed, match=r"cat\.png broke off: the connection ended too early\.$") as caught:
        await read(cut)
    assert caught.value.reached


async def test_every_redirect_of_a_clients_url_must_be_https() -> None:
    with pytest.raises(NotPublic, match="https"):
        await read(redirect("http://example.com/cat.png"))


async def test_a_redirect_to_a_rebinding_name_is_refused(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "1.1.1.1", "127.0.0.1")
    await check_public("https://rebinding.example/")
    async with Site(hello) as site:
        with pytest.raises(NotPublic, match=r"rebinding\.example"):
            await fetcher.read(f"https://rebinding.example:{site.port}/", 1000)
        assert site.asked == []


async def test_a_file_that_stalls_is_given_up() -> None:
    async def stalled(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(PNG)
        await left(request)
        return response

    with pytest.raises(FetchFailed, match=r"cat\.png broke off: it does not answer in time\.$") as caught:
        await read(stalled, timeout=2)
    assert caught.value.reached


async def test_a_read_from_a_silent_host_times_out() -> None:
    async def silent(request: web.Request) -> web.Response:
        await left(request)
        return web.Response()

    with pytest.raises(FetchFailed, match="does not answer"):
        await read(silent, timeout=0.2)


async def test_the_limit_applies_to_the_decompressed_file() -> None:
    async def bomb(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(50 << 20)), headers={"Content-Encoding": "gzip"})

    with pytest.raises(FileTooLarge):
        await read(bomb, limit=1 << 20)


@pytest.mark.parametrize("url", ["http://example.com/", "https://127.0.0.1/", "https://user:password@example.com/"])
async def test_only_public_https_is_read(url: str) -> None:
    with pytest.raises(NotPublic):
        await read(picture, url)
