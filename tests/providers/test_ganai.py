"""Gan.ai: a list in, a list of URLs out behind which nothing exists yet; each item ends by its own status."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.providers.conftest import KEY, pointed
from tests.support.deployment import Deployment
from tests.support.examples import PROMPT, Examples, Way
from tests.support.literal import Literal, Reply, data, ended, page, said, words, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Examples(
    orders={"ganai-bulk": {"items": [{"unique_id": "a", "names": PROMPT}]}},
    further_orders=[
        {"model": "ganai-bulk", "items": [{"unique_id": "a", "names": "Ada"}, {"unique_id": "b", "names": "Bob"}]}
    ],
    failure="no voice was found",
    ways=[
        Way(
            order={"model": "ganai-bulk", "items": [{"unique_id": "a"}], "project_id": "p"},
            operation="ganai.submit",
            submit="/create_video/bulk",
            receipt=[{"unique_id": "a", "inference_id": "7", "project_id": "p"}],
            poll="/projects/p/inference/7/video_status",
            documents=lambda url: {
                "/create_video/bulk": [
                    {"unique_id": "a", "inference_id": "7", "project_id": "p", "video_url": url, "permalink": url}
                ],
                "/projects/p/inference/7/video_status": {"gen_status": "SUCCEEDED", "video_url": url},
            },
            late={"/projects/p/inference/7/video_status": {"gen_status": "SUCCEEDED"}},
            failure=lambda text: {"gen_status": "FAILED", "error": {"message": text}},
        )
    ],
    every_call=[{"model": "ganai-bulk", "items": [{"unique_id": "a", "names": "Ada"}]}],
)

BULK = ("POST", "/create_video/bulk")
ITEMS = [{"names": "Manash", "unique_id": "abc123"}, {"names": "Manash2", "unique_id": "cba321"}]


def status(unique_id: str) -> tuple[str, str]:
    return "GET", f"/projects/p1/inference/inf-{unique_id}/video_status"


def urls(unique_id: str) -> dict[str, str]:
    return {
        "video_url": f"https://s3.example.com/{unique_id}.mp4?X-Amz-Signature=1",
        "permalink": f"https://gan.example.com/p/{unique_id}",
        "thumbnail_url": f"https://s3.example.com/{unique_id}.jpg",
        "smart_url": f"https://gan.example.com/s/{unique_id}",
    }


def entry(unique_id: str, **changes: Any) -> dict[str, Any]:
    """One object of the submit's reply, as the page shows it."""
    ids = {"inference_id": f"inf-{unique_id}", "project_id": "p1", "unique_id": unique_id}
    return {**urls(unique_id), "audio_url": f"https://s3.example.com/{unique_id}.mp3", **ids, **changes}


def state(unique_id: str, word: str, error: Any = "None", **changes: Any) -> Reply:
    """One status, as the inference page shows it: the URLs are there from the start."""
    return said({"gen_status": word, **urls(unique_id), "error": error, **changes})


def scripted(upstream: Literal, *replies: dict[str, Any], **polls: list[Reply]) -> None:
    upstream.on(*BULK, said(list(replies) or [entry("abc123"), entry("cba321")]))
    for unique_id in ("abc123", "cba321"):
        upstream.on(*status(unique_id), *polls.get(unique_id, [state(unique_id, "SUCCEEDED")]))


async def made(
    deployment: Deployment, upstream: Literal, *replies: dict[str, Any], **polls: list[Reply]
) -> list[dict[str, Any]]:
    scripted(upstream, *replies, **polls)
    return await deployment.generate("ganai-bulk", items=ITEMS, project_id="p1")


async def one(deployment: Deployment, upstream: Literal, *polls: Reply) -> list[dict[str, Any]]:
    scripted(upstream, entry("abc123"), abc123=list(polls))
    return await deployment.generate("ganai-bulk", items=ITEMS[:1], project_id="p1")


# --- what it is sent ---


async def test_the_items_are_the_body_and_the_project_is_in_the_query(
    deployment: Deployment, upstream: Literal
) -> None:
    await made(deployment, upstream)
    asked = upstream.once(*BULK)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.query == {"project_id": "p1"}
    assert asked.written == written(ITEMS)


@pytest.mark.parametrize("project", [".", ".."])
async def test_a_project_that_would_make_another_path_is_refused_by_name(
    deployment: Deployment, upstream: Literal, project: str
) -> None:
    order = {"model": "ganai-bulk", "items": ITEMS, "project_id": project}
    refused = await deployment.http.post("/api/jobs", json=order)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "project_id")
    assert not upstream.requests


async def test_tags_keep_their_names_and_types(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    items = [{"unique_id": "abc123", "First name": "Zoë", "age": 7, "share": 1.5, "vip": True, "model": "x"}]
    await deployment.generate("ganai-bulk", items=items, project_id="a b&c")
    assert upstream.once(*BULK).written == written(items)
    assert upstream.once(*BULK).query == {"project_id": "a b&c"}


async def test_without_one_of_its_own_an_order_goes_to_the_configured_project(
    deployment: Deployment, upstream: Literal
) -> None:
    scripted(upstream, entry("abc123"))
    await deployment.generate("ganai-bulk", items=ITEMS[:1])
    assert upstream.once(*BULK).query == {"project_id": "demo"}


async def test_without_any_project_an_order_is_refused_by_name(unstarted: Deployment, upstream: Literal) -> None:
    unstarted.provider = {"project_id": ""}
    async with pointed(unstarted, upstream):
        refused = await unstarted.http.post("/api/jobs", json={"model": "ganai-bulk", "items": ITEMS})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "project_id")
        assert not upstream.requests


BAD_ITEMS: list[tuple[list[dict[str, Any]], str]] = [
    ([], "items"),
    ([{"unique_id": str(n)} for n in range(201)], "items"),
    ([{"names": "x"}], "items.0.unique_id"),
    ([{"unique_id": 7}], "items.0.unique_id"),
    ([{"unique_id": "a"}, {"unique_id": "a"}], "items.1.unique_id"),
    ([{"unique_id": "a", "names": ["x"]}], "items.0.names"),
]


@pytest.mark.parametrize(("items", "field"), BAD_ITEMS, ids=[field for _, field in BAD_ITEMS])
async def test_items_that_cannot_be_told_apart_are_refused_by_name(
    deployment: Deployment, upstream: Literal, items: list[dict[str, Any]], field: str
) -> None:
    refused = await deployment.http.post("/api/jobs", json={"model": "ganai-bulk", "items": items})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert not upstream.requests


async def test_extra_is_refused(deployment: Deployment) -> None:
    refused = await deployment.http.post("/api/jobs", json={"model": "ganai-bulk", "items": ITEMS, "extra": {"a": 1}})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "extra")


# --- what it says ---


async def test_an_item_is_not_complete_before_its_status_says_so(deployment: Deployment, upstream: Literal) -> None:
    polls = [state("abc123", "PENDING")] * 5
    events = await one(deployment, upstream, *polls, state("abc123", "SUCCEEDED"))
    assert words(events) == ["PENDING"]
    assert not [event for event in events[:-1] if "outputs" in event or "url" in event]
    assert ended(events)["status"] == "Completed"
    assert len(upstream.asked(*status("abc123"))) == 6


GOES_ON = [
    "PENDING",
    "PROCESSING",
    "LIPSYNC_PENDING",
    "WEBSITE_SCROLLING_PENDING",
    "NEXRENDER_PENDING",
    "FFMPEG_PENDING",
    "INFERENCE_POST_PROCESSING",
    "WEBHOOK_TRIGGERED",
    "UNKNOWN",
    "RETICULATING",
]


async def test_every_word_that_is_no_end_goes_on_visibly(deployment: Deployment, upstream: Literal) -> None:
    polls = [state("abc123", word) for word in GOES_ON]
    events = await one(deployment, upstream, *polls, state("abc123", "SUCCEEDED"))
    assert words(events) == GOES_ON
    assert ended(events)["status"] == "Completed"


async def test_an_output_carries_all_urls_and_ids_and_its_url_is_the_permalink(
    deployment: Deployment, upstream: Literal
) -> None:
    final = ended(await one(deployment, upstream, state("abc123", "SUCCEEDED")))
    expected = {**entry("abc123"), "url": urls("abc123")["permalink"], "role": "video", "type": "video/mp4"}
    assert final["outputs"] == [{**expected, "status": "Completed"}]
    assert final["url"] == urls("abc123")["permalink"]
    assert "refunded" not in final
    assert await deployment.balance() == 990


@pytest.mark.parametrize("error", ["None", None, {}, "", "none"])
async def test_an_error_field_beside_success_means_nothing(
    deployment: Deployment, upstream: Literal, error: Any
) -> None:
    assert ended(await one(deployment, upstream, state("abc123", "SUCCEEDED", error)))["status"] == "Completed"


@pytest.mark.parametrize("word", ["succeeded", "Succeeded"])
async def test_success_may_be_spelt_in_any_case(deployment: Deployment, upstream: Literal, word: str) -> None:
    assert ended(await one(deployment, upstream, state("abc123", word)))["status"] == "Completed"


@pytest.mark.parametrize("word", ["FAILED", "failed", "BLOCKED", "DELETED", "REGENERATE_REQUIRED"])
@pytest.mark.parametrize("error", ["None", None, {}])
async def test_a_bad_end_of_the_only_item_is_an_error_with_a_full_refund(
    deployment: Deployment, upstream: Literal, word: str, error: Any
) -> None:
    final = ended(await one(deployment, upstream, state("abc123", word, error)))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 10)
    assert word in final["message"]
    assert "None" not in final["message"]
    assert await deployment.balance() == 1000


@pytest.mark.parametrize("error", [{"status_code": 500, "message": "No voice was found"}, "No voice was found"])
async def test_the_reason_of_a_failure_is_an_object_or_a_text(
    deployment: Deployment, upstream: Literal, error: Any
) -> None:
    assert "No voice was found" in ended(await one(deployment, upstream, state("abc123", "FAILED", error)))["message"]


async def test_items_end_one_by_one_and_are_shown_as_they_do(deployment: Deployment, upstream: Literal) -> None:
    slow = [state("cba321", "PROCESSING"), state("cba321", "PROCESSING"), state("cba321", "SUCCEEDED")]
    events = await made(deployment, upstream, cba321=slow)
    shown = [[output["unique_id"] for output in event["outputs"]] for event in events[:-1] if "outputs" in event]
    assert shown == [["abc123"]]
    assert [output["unique_id"] for output in ended(events)["outputs"]] == ["abc123", "cba321"]
    assert len(upstream.asked(*status("abc123"))) == 1
    assert len(upstream.asked(*status("cba321"))) == 3


async def test_a_failed_item_is_refunded_and_the_rest_is_complete(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await made(deployment, upstream, abc123=[state("abc123", "FAILED", {"message": "No voice"})]))
    failed, succeeded = final["outputs"]
    assert (final["status"], final["refunded"], final["url"]) == ("Completed", 10, urls("cba321")["permalink"])
    assert (failed["unique_id"], failed["status"], failed["message"]) == ("abc123", "Error", "No voice")
    assert not [name for name in failed if name.endswith("url") or name == "permalink"]
    assert (succeeded["unique_id"], succeeded["status"]) == ("cba321", "Completed")
    assert await deployment.balance() == 990


async def test_the_refund_is_one_entry_of_the_ledger(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await made(deployment, upstream, abc123=[state("abc123", "FAILED")]))["job"]
    entries = (await deployment.http.get("/api/account/ledger")).json()["entries"]
    assert [(entry["cause"], entry["tokens"]) for entry in entries if entry["job"] == job] == [
        ("refund", 10),
        ("charge", -20),
    ]


async def test_a_reply_in_another_order_is_told_apart_by_unique_id(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await made(deployment, upstream, entry("cba321"), entry("abc123")))
    assert [(output["unique_id"], output["inference_id"]) for output in final["outputs"]] == [
        ("abc123", "inf-abc123"),
        ("cba321", "inf-cba321"),
    ]


LEFT_OUT = {
    "missing": [entry("cba321")],
    "null id": [entry("abc123", inference_id=None), entry("cba321")],
    "empty id": [entry("abc123", inference_id=""), entry("cba321")],
    "no object": ["abc123", entry("cba321")],
}


@pytest.mark.parametrize("replies", LEFT_OUT.values(), ids=LEFT_OUT)
async def test_an_item_that_the_reply_leaves_out_has_failed(
    deployment: Deployment, upstream: Literal, replies: list[Any]
) -> None:
    final = ended(await made(deployment, upstream, *replies))
    assert (final["status"], final["refunded"]) == ("Completed", 10)
    assert [output["status"] for output in final["outputs"]] == ["Error", "Completed"]
    assert final["outputs"][0]["message"]
    assert not upstream.asked(*status("abc123"))


async def test_a_reply_that_leaves_out_every_item_is_an_error(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream)
    upstream.on(*BULK, said([]))
    final = ended(await deployment.generate("ganai-bulk", items=ITEMS, project_id="p1"))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 20)


async def test_an_item_whose_job_is_not_known_fails_alone(deployment: Deployment, upstream: Literal) -> None:
    gone = said({"detail": "Inference not found"}, 404)
    final = ended(await made(deployment, upstream, abc123=[gone]))
    assert (final["status"], final["refunded"]) == ("Completed", 10)
    assert "Inference not found" in final["outputs"][0]["message"]


async def test_an_item_that_is_never_answered_for_in_words_that_make_sense_is_given_up_after_the_others(
    deployment: Deployment, upstream: Literal
) -> None:
    before = deployment.clock.at
    final = ended(await made(deployment, upstream, abc123=[page(200)]))
    assert (final["status"], final["refunded"]) == ("Completed", 10)
    assert "cannot be read" in final["outputs"][0]["message"]
    assert deployment.clock.at - before < 600


async def test_an_item_without_any_url_is_not_a_success(deployment: Deployment, upstream: Literal) -> None:
    reply = {"unique_id": "abc123", "inference_id": "inf-abc123", "project_id": "p1"}
    scripted(upstream, reply, abc123=[said({"gen_status": "SUCCEEDED", "video_url": None, "error": "None"})])
    final = ended(await deployment.generate("ganai-bulk", items=ITEMS[:1], project_id="p1"))
    assert (final["status"], final["refunded"]) == ("Error", 10)


async def test_ids_that_are_numbers_become_texts(deployment: Deployment, upstream: Literal) -> None:
    scripted(upstream, entry("abc123", inference_id=9007199254740993, project_id=7))
    upstream.on("GET", "/projects/7/inference/9007199254740993/video_status", state("abc123", "SUCCEEDED"))
    final = ended(await deployment.generate("ganai-bulk", items=ITEMS[:1], project_id="7"))
    assert (final["outputs"][0]["inference_id"], final["outputs"][0]["project_id"]) == ("9007199254740993", "7")


PASSING = {
    "500": said({"detail": "Internal Server Error"}, 500),
    "502": page(502),
    "429": said({"detail": "slow down"}, 429, Retry_After="1"),
    "404 at first": said({"detail": "Not Found"}, 404),
    "half": data(b'{"gen_status": "SUCC', "application/json"),
    "no word": said({"error": "None"}),
    "list": said([]),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
async def test_a_poll_that_cannot_be_read_is_asked_again(
    deployment: Deployment, upstream: Literal, answer: Reply
) -> None:
    assert ended(await one(deployment, upstream, answer, state("abc123", "SUCCEEDED")))["status"] == "Completed"
    assert len(upstream.asked(*BULK)) == 1


HINTS = {
    "a word that is new": state("abc123", "PROCESSING"),
    "a word that cannot be read": page(200),
}


@pytest.mark.parametrize("answer", HINTS.values(), ids=HINTS)
async def test_a_hint_of_one_item_holds_for_all(deployment: Deployment, upstream: Literal, answer: Reply) -> None:
    hinted = replace(answer, headers={"Retry-After": "90"})
    ends = {"abc123": [hinted, state("abc123", "SUCCEEDED")], "cba321": [state("cba321", "PROCESSING")] * 2}
    ends["cba321"].append(state("cba321", "SUCCEEDED"))
    events = await made(deployment, upstream, **ends)
    first, last = (datetime.fromisoformat(event["at"]) for event in (events[0], events[-1]))
    assert (last - first).total_seconds() > 90


async def test_a_token_that_has_expired_suspends_the_job_until_it_works_again(
    deployment: Deployment, upstream: Literal
) -> None:
    expired = [said({"detail": "Could not validate credentials"}, 401)] * 20
    events = await one(deployment, upstream, *expired, state("abc123", "SUCCEEDED"))
    assert ended(events)["status"] == "Completed"
    assert any("Could not validate credentials" in word for word in words(events))


async def late(unstarted: Deployment, upstream: Literal, **polls: list[Reply]) -> tuple[dict[str, Any], int]:
    """The final event of two items that had a minute, and the balance then."""
    async with pointed(unstarted, upstream):
        await unstarted.stop()
        unstarted.providers["Gan.ai"]["deadline"] = 60
        await unstarted.start()
        return ended(await made(unstarted, upstream, **polls)), await unstarted.balance()


async def test_at_the_deadline_unfinished_items_count_as_failed(unstarted: Deployment, upstream: Literal) -> None:
    final, balance = await late(unstarted, upstream, abc123=[state("abc123", "PROCESSING")])
    assert (final["status"], final["refunded"], balance) == ("Completed", 10, 990)
    assert [output["status"] for output in final["outputs"]] == ["Error", "Completed"]


async def test_at_the_deadline_without_any_success_the_job_is_an_error(
    unstarted: Deployment, upstream: Literal
) -> None:
    polls = {unique_id: [state(unique_id, "PROCESSING")] for unique_id in ("abc123", "cba321")}
    final, balance = await late(unstarted, upstream, **polls)
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "deadline_exceeded", 20)
    assert balance == 1000


# --- its bytes ---


async def test_content_redirects_to_the_video_renewed_by_the_status_call(
    deployment: Deployment, upstream: Literal
) -> None:
    job = ended(await made(deployment, upstream))["job"]
    fresh = "https://s3.example.com/cba321.mp4?X-Amz-Signature=2"
    upstream.on(*status("cba321"), state("cba321", "SUCCEEDED", video_url=fresh))
    answer = await deployment.http.get(f"/api/jobs/{job}/content/1")
    assert (answer.status_code, answer.headers["Location"]) == (302, fresh)


async def test_content_of_a_failed_item_is_not_found(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await made(deployment, upstream, abc123=[state("abc123", "FAILED")]))["job"]
    assert (await deployment.http.get(f"/api/jobs/{job}/content/0")).status_code == 404
    assert (await deployment.http.get(f"/api/jobs/{job}/content/1")).status_code == 302
    assert (await deployment.http.get(f"/api/jobs/{job}/content/2")).status_code == 404


async def test_content_of_a_forgotten_video_is_a_502(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await one(deployment, upstream, state("abc123", "SUCCEEDED")))["job"]
    upstream.on(*status("abc123"), said({"detail": "Inference not found"}, 404))
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_failed")


# --- what it refuses ---


REFUSALS = [
    (said({"detail": "Could not validate credentials"}, 401), "upstream_auth", "Could not validate credentials"),
    (said({"detail": "Insufficient credits"}, 402), "upstream_credits", "Insufficient credits"),
    (
        said({"detail": [{"loc": ["body", 0, "names"], "msg": "Field required", "type": "missing"}]}, 422),
        "upstream_rejected",
        "Field required (body.0.names)",
    ),
    (said({"detail": "Project not found"}, 404), "upstream_rejected", "Project not found"),
    (said({"detail": "Internal Server Error"}, 500), "upstream_failed", "Internal Server Error"),
    (page(502), "outcome_unknown", "502"),
    (page(200), "outcome_unknown", ""),
    (said({"status": "ok"}), "outcome_unknown", ""),
]


@pytest.mark.parametrize(("reply", "code", "says"), REFUSALS, ids=[f"{r.status} {c}" for r, c, _ in REFUSALS])
async def test_a_refused_order_ends_as_what_it_is_and_is_sent_once(
    deployment: Deployment, upstream: Literal, reply: Reply, code: str, says: str
) -> None:
    upstream.on(*BULK, reply)
    final = ended(await deployment.generate("ganai-bulk", items=ITEMS, project_id="p1"))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", code, 20)
    assert says in final["message"]
    assert len(upstream.asked(*BULK)) == 1
