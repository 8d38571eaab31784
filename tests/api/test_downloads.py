"""Downloads: ranges (RFC 9110), stored files and relayed files, with the headers that make them safe."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.api.downloads import RelayedFiles, SourceGone, StoredFiles, byte_range, redirect
from proxy.core.errors import NotFound, RangeNotSatisfiable, UpstreamFailed, UpstreamUnreachable
from proxy.core.settings import load
from proxy.providers.base import Source
from proxy.providers.gaia import Gaia, GaiaSettings
from proxy.store.blobs import Blobs
from proxy.upstream.fetch import Fetcher
from tests.support.deployment import JumpClock
from tests.support.site import Handler, Site

Answer = Callable[[Request], Awaitable[Response]]
DIGITS = b"0123456789"
WRITE_TIMEOUT = 60


async def ask(answer: Answer, method: str = "GET", headers: Mapping[str, str] | None = None) -> httpx.Response:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        # Otherwise httpx requests compression.
        return await client.request(method, "/", headers={"Accept-Encoding": "identity", **(headers or {})})


# --- ranges (RFC 9110, section 14) ---


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-499", (0, 500)),
        ("bytes=500-999", (500, 1000)),
        ("bytes=0-0", (0, 1)),
        ("bytes=9999-9999", (9999, 10000)),
        ("bytes=9500-", (9500, 10000)),
        ("bytes=0-", (0, 10000)),
        ("bytes=-500", (9500, 10000)),
        ("bytes=-1", (9999, 10000)),
        ("bytes=-10000", (0, 10000)),
        ("bytes=-20000", (0, 10000)),
        ("bytes=9500-20000", (9500, 10000)),
        ("bytes= 0-499", (0, 500)),
    ],
)
def test_a_single_range_is_parsed(header: str, span: tuple[int, int]) -> None:
    assert byte_range(header, 10_000) == span


@pytest.mark.parametrize(
    "header",
    [
        "bytes=500-400",
        "bytes=0-0,-1",
        "bytes=500-600,601-999",
        "bytes=-",
        "bytes=",
        "bytes",
        "bytes=a-b",
        "bytes=--1",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=²-3",
        "items=0-1",
        "0-499",
        "",
    ],
)
def test_a_header_that_is_not_a_single_byte_range_is_ignored(header: str) -> None:
    assert byte_range(header, 10_000) is None


@pytest.mark.parametrize(
    ("header", "size"),
    [("bytes=10000-", 10_000), ("bytes=10000-10001", 10_000), ("bytes=-0", 10_000), ("bytes=0-", 0), ("bytes=-5", 0)],
)
def test_a_range_beyond_the_end_cannot_be_satisfied(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        byte_range(header, size)
    assert caught.value.headers == {"Content-Range": f"bytes */{size}"}


@pytest.mark.parametrize("header", [f"bytes={'9' * 5000}-", f"bytes=0-{'9' * 5000}", f"bytes=-{'9' * 5000}"])
def test_a_range_with_thousands_of_digits_does_not_crash(header: str) -> None:
    # Earlier bug: int() raises ValueError above 4300 digits, which was a 500.
    try:
        span = byte_range(header, 10)
    except RangeNotSatisfiable:
        return
    assert span in {None, (0, 10)}


# --- stored bytes ---


@pytest.fixture
async def blobs(tmp_path: Path) -> Blobs:
    blobs = Blobs(str(tmp_path))
    await blobs.put("digits", DIGITS)
    await blobs.put("nothing", b"")
    return blobs


def digits(blobs: Blobs, media_type: str = "video/mp4", blob: str = "digits") -> Answer:
    return lambda request: StoredFiles(blobs, WRITE_TIMEOUT).deliver(request, blob, "job_1-0", media_type)


async def test_stored_bytes_have_headers_that_prevent_execution(blobs: Blobs) -> None:
    response = await ask(digits(blobs))
    assert (response.status_code, response.content) == (200, DIGITS)
    assert dict(response.headers) == {
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cross-origin-resource-policy": "cross-origin",
        "referrer-policy": "no-referrer",
        "content-type": "video/mp4",
        "content-disposition": 'inline; filename="job_1-0.mp4"',
        "accept-ranges": "bytes",
        "cache-control": "private, no-transform",
        "etag": '"job_1-0-10"',
        "content-length": "10",
    }


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/xml", "application/pdf"])
async def test_a_type_that_browsers_execute_is_sent_as_a_download(blobs: Blobs, media_type: str) -> None:
    response = await ask(digits(blobs, media_type))
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == 'attachment; filename="job_1-0.bin"'


async def test_a_range_of_stored_bytes_is_206(blobs: Blobs) -> None:
    response = await ask(digits(blobs), headers={"Range": "bytes=2-4"})
    assert (response.status_code, response.content) == (206, b"234")
    assert response.headers["content-range"] == "bytes 2-4/10"
    assert response.headers["content-length"] == "3"


async def test_an_ignored_range_returns_the_whole(blobs: Blobs) -> None:
    response = await ask(digits(blobs), headers={"Range": "bytes=0-1,3-4"})
    assert (response.status_code, response.content) == (200, DIGITS)
    assert "content-range" not in response.headers


async def test_a_range_outside_stored_bytes_cannot_be_satisfied(blobs: Blobs) -> None:
    with pytest.raises(RangeNotSatisfiable):
        await ask(digits(blobs), headers={"Range": "bytes=10-"})


@pytest.mark.parametrize(
    ("if_range", "status"), [('"job_1-0-10"', 206), ('"other"', 200), ("Fri, 15 Jan 2027 08:00:00 GMT", 200)]
)
async def test_a_range_of_another_version_returns_the_whole(blobs: Blobs, if_range: str, status: int) -> None:
    response = await ask(digits(blobs), headers={"Range": "bytes=2-4", "If-Range": if_range})
    assert response.status_code == status


async def test_head_returns_the_headers_of_the_whole(blobs: Blobs) -> None:
    whole, head = await ask(digits(blobs)), await ask(digits(blobs), "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == whole.headers


async def test_head_ignores_a_range(blobs: Blobs) -> None:
    # Earlier bug. RFC 9110, section 14.2: Range is defined for GET only and ignored with other methods.
    head = await ask(digits(blobs), "HEAD", {"Range": "bytes=2-4"})
    assert (head.status_code, head.headers["content-length"]) == (200, "10")


@pytest.mark.parametrize("known", ['"job_1-0-10"', 'W/"job_1-0-10"', '"other", "job_1-0-10"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_current_copy_is_304(blobs: Blobs, method: str, known: str) -> None:
    response = await ask(digits(blobs), method, {"If-None-Match": known, "Range": "bytes=99-"})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == '"job_1-0-10"'


async def test_an_outdated_copy_is_replaced(blobs: Blobs) -> None:
    response = await ask(digits(blobs), headers={"If-None-Match": '"job_1-0-9", "job_2-0-10"'})
    assert (response.status_code, response.content) == (200, DIGITS)


@pytest.mark.parametrize(("span", "body"), [("bytes=-3", b"789"), ("bytes=7-", b"789"), ("Bytes=0-99", DIGITS)])
async def test_a_suffix_and_an_open_end_are_ranges(blobs: Blobs, span: str, body: bytes) -> None:
    response = await ask(digits(blobs), headers={"Range": span})
    assert (response.status_code, response.content) == (206, body)


async def test_an_empty_file_is_served(blobs: Blobs) -> None:
    response = await ask(digits(blobs, blob="nothing"))
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


async def test_missing_bytes_are_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFound):
        await ask(digits(blobs, blob="gone"))


def test_a_redirect_is_not_cached() -> None:
    response = redirect("https://cdn.example.com/cat.mp4?signature=x")
    assert response.status_code == 302
    assert response.headers["location"] == "https://cdn.example.com/cat.mp4?signature=x"
    assert response.headers["cache-control"] == "no-store"


# --- a provider's bytes ---


def file(status: int = 200, body: bytes = DIGITS, **headers: str) -> Handler:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": "video/mp4", **named})

    return answer


async def send_chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "video/mp4"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    if request.method == "GET":
        await response.write(DIGITS)
    return response


@asynccontextmanager
async def relay(answer: Handler, url: str = "/cat", *, keyed: bool = True) -> AsyncIterator[tuple[Site, Answer]]:
    """Yield a provider's site, and a function that relays `url` from it."""
    async with Site(answer) as site, Fetcher() as fetcher:
        settings = load(GaiaSettings, base_url=site.url, api_key="sk-secret")
        gaia = Gaia(settings, JumpClock(), "https://cast.example.com")
        source = Source(site.url + url if url.startswith("/") else url, needs_key=keyed)
        yield site, lambda request: RelayedFiles(fetcher, WRITE_TIMEOUT).deliver(request, gaia, source, name="job_1-0")


async def relayed_from(answer: Handler, method: str = "GET", url: str = "/cat", **headers: str) -> httpx.Response:
    async with relay(answer, url) as (_, ours):
        return await ask(ours, method, headers)


async def test_a_provider_s_file_is_read_with_its_key() -> None:
    async with relay(file(ETag='"1"', X_Internal="hush", Set_Cookie="a=b")) as (site, ours):
        response = await ask(ours, headers={"Cookie": "ours=1", "Authorization": "Bearer client"})
        assert (response.status_code, response.content) == (200, DIGITS)
        assert response.headers["content-type"] == "video/mp4"
        assert response.headers["content-length"] == "10"
        assert response.headers["content-disposition"] == 'inline; filename="job_1-0.mp4"'
        assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert response.headers["etag"] == '"1"'
        assert not {"x-internal", "set-cookie", "server"} & set(response.headers)
        (request,) = site.asked
        assert request.headers["Authorization"] == "Bearer sk-secret"
        assert "Cookie" not in request.headers


@pytest.mark.parametrize("name", ["ETag", "Last-Modified", "Accept-Ranges"])
@pytest.mark.parametrize("value", ['"\u65e5\u672c"', '"caf\u00e9"'])
async def test_a_provider_s_header_that_is_not_ascii_is_omitted(name: str, value: str) -> None:
    response = await relayed_from(file(200, DIGITS, **{name.replace("-", "_"): value}))
    assert (response.status_code, response.content) == (200, DIGITS)
    assert name not in response.headers


async def test_not_modified_omits_a_tag_that_is_not_ascii() -> None:
    response = await relayed_from(file(304, b"", ETag='"\u65e5"'), **{"If-None-Match": "*"})
    assert (response.status_code, "etag" in response.headers) == (304, False)


async def test_a_refused_range_omits_a_size_that_is_not_ascii() -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        await relayed_from(file(416, b"", Content_Range="bytes */\u0661"), Range="bytes=90-")
    assert caught.value.headers == {}


async def test_a_part_with_a_range_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(UpstreamFailed):
        await relayed_from(file(206, b"234", Content_Range="bytes 2-4/\u0661"), Range="bytes=2-4")


async def test_a_public_source_is_read_without_the_key() -> None:
    async with relay(file(), keyed=False) as (site, ours):
        assert (await ask(ours)).content == DIGITS
        assert "Authorization" not in site.asked[0].headers


async def test_the_client_s_range_is_forwarded() -> None:
    async with relay(file(206, b"234", Content_Range="bytes 2-4/10")) as (site, ours):
        response = await ask(ours, headers={"Range": "bytes=2-4", "If-Range": '"1"'})
        assert (response.status_code, response.content) == (206, b"234")
        assert response.headers["content-range"] == "bytes 2-4/10"
        assert (site.asked[0].headers["Range"], site.asked[0].headers["If-Range"]) == ("bytes=2-4", '"1"')


@pytest.mark.parametrize("span", ["bytes=0-1,3-4", "items=0-1", "bytes=-", "bytes=a-b", "bytes=1-2-3"])
async def test_only_a_single_range_is_forwarded(span: str) -> None:
    # Several ranges would return as a multipart body, whose type is not the file's.
    async with relay(file()) as (site, ours):
        assert (await ask(ours, headers={"Range": span, "If-Range": '"1"'})).content == DIGITS
        assert not {"Range", "If-Range"} & set(site.asked[0].headers)


async def test_a_compressed_part_is_requested_again_as_a_whole() -> None:
    async def send_zipped(request: web.Request) -> web.Response:
        if "Range" in request.headers:
            headers = {"Content-Encoding": "gzip", "Content-Range": "bytes 2-4/30"}
            return web.Response(status=206, body=gzip.compress(DIGITS)[2:5], headers=headers)
        return web.Response(body=gzip.compress(DIGITS), headers={"Content-Encoding": "gzip", "ETag": '"packed"'})

    response = await relayed_from(send_zipped, Range="bytes=2-4")
    assert (response.status_code, response.content) == (200, DIGITS)
    assert not {"etag", "content-length", "content-range", "content-encoding"} & set(response.headers)


@pytest.mark.parametrize("coding", ["", " ", "none", "identity", "aws-chunked", "Identity, aws-chunked"])
async def test_a_coding_that_keeps_the_bytes_keeps_ranges(coding: str) -> None:
    async def part(_: web.Request) -> web.Response:
        headers = {"Content-Encoding": coding, "Content-Range": "bytes 2-4/30", "Accept-Ranges": "bytes", "ETag": '"1"'}
        return web.Response(status=206, body=DIGITS[2:5], headers=headers)

    response = await relayed_from(part, Range="bytes=2-4")
    assert (response.status_code, response.content, response.headers["etag"]) == (206, DIGITS[2:5], '"1"')
    assert (response.headers["content-range"], response.headers["content-length"]) == ("bytes 2-4/30", "3")


@pytest.mark.parametrize("name", ["If-None-Match", "If-Modified-Since"])
async def test_a_current_copy_of_the_provider_s_file_is_304(name: str) -> None:
    async with relay(file(304, b"", ETag='"1"')) as (site, ours):
        response = await ask(ours, headers={name: '"1"'})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"1"')
        assert site.asked[0].headers[name] == '"1"'


async def test_a_part_that_was_not_requested_is_refused() -> None:
    with pytest.raises(UpstreamFailed, match="answered 206"):
        await relayed_from(file(206, b"234", Content_Range="bytes 2-4/10"))


async def test_a_part_without_a_content_range_is_refused() -> None:
    with pytest.raises(UpstreamFailed, match="answered 206"):
        await relayed_from(file(206, b"234"), Range="bytes=2-4")


@asynccontextmanager
async def relay_of(media_type: str, answer: Handler) -> AsyncIterator[Answer]:
    """Yield a function that relays an output of that type."""
    async with Site(answer) as site, Fetcher() as fetcher:
        gaia = Gaia(load(GaiaSettings, base_url=site.url, api_key="k"), JumpClock(), "https://cast.example.com")
        source = Source(site.url, needs_key=True)
        yield lambda request: RelayedFiles(fetcher, WRITE_TIMEOUT).deliver(
            request, gaia, source, name="job_1-0", media_type=media_type
        )


@pytest.mark.parametrize("told", ["application/octet-stream", "binary/octet-stream", "application/octet-stream; x=y"])
async def test_a_missing_type_is_taken_from_the_output(told: str) -> None:
    async with relay_of("video/mp4", file(Content_Type=told)) as ours:
        response = await ask(ours)
        assert response.headers["content-type"] == "video/mp4"
        assert response.headers["content-disposition"] == 'inline; filename="job_1-0.mp4"'


async def test_head_of_a_url_signed_for_get_uses_get() -> None:
    async def send_if_get(request: web.Request) -> web.Response:
        return web.Response(status=403) if request.method == "HEAD" else web.Response(body=DIGITS)

    response = await relayed_from(send_if_get, "HEAD")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "10")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_url_that_may_have_expired_has_its_own_error(status: int) -> None:
    with pytest.raises(SourceGone):
        await relayed_from(file(status))


@pytest.mark.parametrize("media_type", ["video/mp4", "image/png", "audio/mpeg"])
@pytest.mark.parametrize("told", ["application/json", "Application/JSON; charset=utf-8", "text/html"])
async def test_text_instead_of_media_is_an_error(media_type: str, told: str) -> None:
    async with relay_of(media_type, file(body=b'{"error": "expired"}', Content_Type=told)) as ours:
        with pytest.raises(UpstreamFailed, match="instead of") as caught:
            await ask(ours)
    assert "expired" not in caught.value.message


async def test_the_type_of_a_304_is_not_checked() -> None:
    async with relay_of("video/mp4", file(304, b"", Content_Type="text/html")) as ours:
        assert (await ask(ours, headers={"If-None-Match": '"1"'})).status_code == 304


async def test_json_for_an_output_of_unknown_type_is_relayed() -> None:
    assert (await relayed_from(file(Content_Type="application/json"))).content == DIGITS


async def test_a_provider_s_html_is_sent_as_a_download() -> None:
    response = await relayed_from(file(Content_Type="text/html"))
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == 'attachment; filename="job_1-0.bin"'


async def test_head_is_forwarded_as_head() -> None:
    async with relay(file()) as (site, ours):
        response = await ask(ours, "HEAD")
        assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "10")
        assert site.asked[0].method == "HEAD"


async def test_a_file_of_unknown_length_is_relayed() -> None:
    response = await relayed_from(send_chunked)
    assert response.content == DIGITS
    assert "content-length" not in response.headers


async def test_head_of_a_file_of_unknown_length_has_no_length() -> None:
    # Earlier bug: Starlette's Response adds Content-Length: 0.
    assert "content-length" not in (await relayed_from(send_chunked, "HEAD")).headers


async def test_a_file_compressed_without_request_has_a_correct_length() -> None:
    # Earlier bug: aiohttp decompresses the body, but the provider's Content-Length was passed on.
    async def send_zipped(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(DIGITS * 100), headers={"Content-Encoding": "gzip"})

    response = await relayed_from(send_zipped)
    assert response.headers.get("content-length", str(len(response.content))) == str(len(response.content))


@pytest.mark.parametrize("status", [204, 304, 400, 401, 403, 404, 500])
async def test_any_other_status_is_an_error_without_its_body(status: int) -> None:
    with pytest.raises(UpstreamFailed, match=f"answered {status} when its file was read") as caught:
        await relayed_from(file(status, b"" if status in {204, 304} else b"hush"))
    assert "hush" not in caught.value.message


async def test_a_range_that_the_provider_refuses_cannot_be_satisfied() -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        await relayed_from(file(416, b"", Content_Range="bytes */10"), Range="bytes=99-")
    assert caught.value.headers == {"Content-Range": "bytes */10"}


async def test_a_file_at_a_private_address_is_not_read() -> None:
    with pytest.raises(UpstreamFailed, match="not public"):
        await relayed_from(file(), url="http://127.0.0.1:1/secrets")


@pytest.mark.parametrize("url", ["", "cat.mp4", "mailto:cat@example.com", "https://[", "https://a..b/"])
async def test_a_file_at_an_invalid_address_is_not_read(url: str) -> None:
    with pytest.raises(UpstreamFailed):
        await relayed_from(file(), url=url)


async def test_a_provider_that_refuses_connections_is_unreachable() -> None:
    async with relay(file()) as (site, _):
        gone: Any = site.url
    async with Fetcher() as fetcher:
        gaia = Gaia(load(GaiaSettings, base_url=gone, api_key="sk-secret"), JumpClock(), "http://x.example")
        with pytest.raises(UpstreamUnreachable):
            await ask(
                lambda request: RelayedFiles(fetcher, WRITE_TIMEOUT).deliver(
                    request, gaia, Source(f"{gone}/cat", needs_key=True), name="job_1-0"
                )
            )
