"""The access log: one line for each request, with the id that links it to its job."""

import logging
from typing import Any

import pytest

from tests.api.test_api import GAGA
from tests.support.deployment import Deployment


@pytest.fixture(autouse=True)
def levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "proxy")


def facts_of(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    """Return the facts of each log record with that message."""
    return [vars(record) for record in caplog.records if record.getMessage() == message]


async def test_a_request_is_one_line(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    await deployment.http.get("/api/jobs", params={"limit": "5"})
    (line,) = facts_of(caplog, "request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/jobs?limit=5", 200)
    assert line["account"].startswith("acc")
    assert 0 < line["ms"] < 10_000
    assert line["levelname"] == "INFO"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/api/jobs", 405), ("POST", "/api/jobs", 400)]
)
async def test_a_refused_request_is_one_line(
    deployment: Deployment, caplog: pytest.LogCaptureFixture, method: str, path: str, status: int
) -> None:
    await deployment.http.request(method, path)
    assert [line["status"] for line in facts_of(caplog, "request")] == [status]


async def test_probes_are_logged_at_debug(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    await deployment.http.get("/healthz")
    assert [line["levelname"] for line in facts_of(caplog, "request")] == ["DEBUG"]


async def test_a_stream_is_logged_when_it_begins_and_ends(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    job = (await deployment.submit("gaga-1", prompt="[stuck]"))["id"]
    async with deployment.open("GET", f"/api/jobs/{job}/events", headers={"X-Request-Id": "mine"}) as response:
        await anext(response.aiter_bytes())
        assert [line["path"] for line in facts_of(caplog, "request")][1:] == [f"/api/jobs/{job}/events"]
        assert not facts_of(caplog, "stream ended")
    while not facts_of(caplog, "stream ended"):
        await deployment.http.get("/api/ping")
    (line,) = facts_of(caplog, "stream ended")
    assert (line["path"], line["request"]) == (f"/api/jobs/{job}/events", "mine")


async def test_a_signature_is_not_logged(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    link = (await deployment.submit(**GAGA))["links"]["events"]
    await deployment.http.get(link)
    signature = link.split("signature=")[1]
    (line,) = [line for line in facts_of(caplog, "request") if "/events" in line["path"]]
    assert line["path"].endswith("&signature=***")
    assert signature not in caplog.text


# --- the id ---


@pytest.mark.parametrize(
    "own", ["a", "req-1", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "Root=1-67891233:a/b+c=@.d_e", "x" * 128]
)
async def test_a_client_s_request_id_is_logged_and_returned(deployment: Deployment, own: str) -> None:
    response = await deployment.http.get("/api/ping", headers={"X-Request-Id": own})
    assert response.headers["x-request-id"] == own


@pytest.mark.parametrize("own", ["", "x" * 129, "a b", "a\tb", "<script>", 'a"b', "\u00e9".encode("latin-1")])
async def test_an_unsafe_request_id_is_replaced(deployment: Deployment, own: str | bytes) -> None:
    response = await deployment.http.get(
        "/api/ping", headers=[(b"X-Request-Id", own.encode() if isinstance(own, str) else own)]
    )
    assert response.headers["x-request-id"] != own
    assert len(response.headers["x-request-id"]) == 16


async def test_every_response_has_a_unique_request_id(deployment: Deployment) -> None:
    job = (await deployment.generate("suno", prompt="A song"))[0]["job"]
    paths = ["/api/ping", "/nowhere", f"/api/jobs/{job}/events", f"/api/jobs/{job}/events", "/docs"]
    ids = [(await deployment.http.get(path)).headers.get_list("x-request-id") for path in paths]
    assert [len(found) for found in ids] == [1] * len(paths)
    assert len({found[0] for found in ids}) == len(paths)


async def test_a_job_can_be_traced_to_the_request_that_made_it(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    job = (await deployment.submit("gaga-1", prompt="Hello"))["id"]
    await deployment.ended(job)
    (ordered,) = facts_of(caplog, "job ordered")
    assert (ordered["job"], ordered["model"], ordered["tokens"]) == (job, "gaga-1", 20)
    lines = [line for line in facts_of(caplog, "job") if line["levelname"] == "INFO"]
    assert [line["status"] for line in lines] == ["Processing", "Completed"]
    assert {line["job"] for line in lines} == {job}
    assert lines[-1]["seconds"] > 0


async def test_a_failed_job_is_logged_with_the_reason(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    await deployment.generate("suno", prompt="[fail]")
    last = facts_of(caplog, "job")[-1]
    assert (last["status"], last["code"], last["refunded"]) == ("Error", "upstream_failed", 10)
