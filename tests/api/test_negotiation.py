"""Content negotiation: plain lines only if `text/plain` has a greater weight than `text/event-stream`."""

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.negotiation import prefers_lines
from tests.support.deployment import NO_AUTHORITIES, Deployment


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain",
        "TEXT/Plain",
        "text/plain; charset=utf-8",
        'text/plain;charset="UTF-8";q=0.3',
        "text/plain, application/json",
        "text/plain, */*;q=0.9",
        "text/plain;q=0.6, text/*;q=0.5",
        "text/plain, text/event-stream;q=0.999",
        "text/event-stream;q=0.4, text/plain;q=0.5",
        "text/event-stream;q=0, */*",
        "*/*;q=1, text/event-stream;q=0.1",
        "text/plain;q=0.5;ext=1, text/plain",
        "text/plain, text/event-stream;level=1",
        "text/plain, text/event-stream;q=none",
        "text/event-stream; Q=0.1, text/plain; Q=1.000",
        ",, text/plain ,",
        'a/b;c="x,y;q=0", text/plain',
    ],
)
def test_a_greater_weight_of_text_means_lines(accept: str) -> None:
    assert prefers_lines(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "*",
        "text/*",
        "application/json, text/plain, */*",
        "application/json, text/plain, text/*",
        "text/plain, text/event-stream",
        "text/plain;q=0.5, text/event-stream;q=0.5",
        "text/plain;q=0.9, text/event-stream",
        "text/plain;q=0.9, */*",
        "text/plain;q=0.9, text/*",
        "text/plain;q=0, */*;q=0.1",
        "text/plain;q=0",
        "text/plain;q=0.000",
        "text/plain;q=2",
        "text/plain;q=-1",
        "text/plain;q=nan",
        "text/plain;q=",
        "text/plain;format=flowed",
        "text/plain-ish",
        "application/json",
        "image/png, text/html;q=0.8",
        'x/y;note="text/plain"',
        '"text/plain',
        "text/html, image/gif, *; q=.2, */*; q=.2",
        "\u00e9;q=1, ;;;, =, text",
    ],
)
def test_any_other_header_means_events(accept: str) -> None:
    assert not prefers_lines(accept)


@given(st.text(st.characters(max_codepoint=255), max_size=200) | st.text('text/plain*,;q="=.01\\ ', max_size=200))
def test_no_header_raises(accept: str) -> None:
    assert prefers_lines(accept) in {True, False}


@pytest.mark.parametrize("unit", [",", '"', '"\\', ";", "a;", "=", "text/plain,", "text/plain;q=0.1;", "a;b*0=c;"])
def test_a_long_header_is_parsed_quickly(unit: str) -> None:
    began = time.process_time()
    prefers_lines(unit * ((64 << 10) // len(unit)))
    assert time.process_time() - began < 5


async def test_the_common_http_libraries_get_events(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    for accept in ("application/json, text/plain, */*", "*/*", "text/event-stream"):
        response = await deployment.http.get(f"/api/jobs/{job}/events", headers={"Accept": accept})
        assert response.headers["content-type"] == "text/event-stream"
    order = {"model": "suno", "prompt": "song"}
    response = await deployment.http.post(
        "/api/generate", json=order, headers={"Accept": "application/json, text/plain, */*"}
    )
    assert response.headers["content-type"] == "text/event-stream"


async def test_repeated_headers_are_one_list(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="song"))[0]["job"]
    for first, second, expected in (
        ("text/plain", "text/event-stream", "text/event-stream"),
        ("application/json", "text/plain", "text/plain; charset=utf-8"),
    ):
        headers = httpx.Headers([("Accept", first), ("Accept", second), ("Authorization", f"Bearer {deployment.key}")])
        async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES, headers={"Accept": ""}) as client:
            del client.headers["Accept"]
            response = await client.get(f"{deployment.origin}/api/jobs/{job}/events", headers=headers)
        assert response.headers["content-type"] == expected
