"""AI-Now: one POST, one stream of bare frames; its page's documents, and streams that break."""

from typing import Any

import pytest

from tests.providers.conftest import KEY
from tests.support.deployment import Deployment
from tests.support.examples import PROMPT, Examples, Way
from tests.support.literal import Literal, Reply, ended, page, said, streamed, words, written

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Examples(
    orders={model: {"prompt": PROMPT} for model in ("suno", "luma", "pika", "run")},
    further_orders=[
        {"model": "pika", "prompt": "lake", "style": "4"},
        {"model": "run", "prompt": "lake", "style": "anime"},
    ],
    failure="was not accepted by the model",
    ways=[
        Way(
            order={"model": "luma", "prompt": "x"},
            operation="ainow.generate",
            submit="/api/generate",
            frames=lambda url: [{"status": "Processing"}, {"status": "Completed", "url": url}],
            failure=lambda text: {"status": "Error", "message": text},
        )
    ],
    every_call=[{"model": "pika", "prompt": "Hello"}],
    unused=frozenset({"ainow.ping"}),
)

GENERATE = ("POST", "/api/generate")
SONG = "https://dl.ai-now.space/summer_pop_song_12345.mp3"
FILM = "https://dl.ai-now.space/serene_lake_mountains_67890.mp4"

STREAM = (
    b'data: {"status": "Processing started"}\n\n'
    b'data: {"status": "Processing"}\n\n'
    b'data: {"status": "Cookie generated"}\n\n'
    b'data: {"status": "Processing"}\n\n'
    b'data: {"status": "Processing"}\n\n'
)
COMPLETED = b'data: {"status": "Completed", "url": "' + FILM.encode() + b'"}\n\n'


async def filmed(deployment: Deployment, upstream: Literal, reply: Reply, **order: Any) -> list[dict[str, Any]]:
    upstream.on(*GENERATE, reply)
    return await deployment.generate("luma", prompt="A serene lake", **order)


# --- what it is sent ---


async def test_a_song_is_asked_for_as_the_page_shows_it(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*GENERATE, streamed(STREAM, b'data: {"status": "Completed", "url": "' + SONG.encode() + b'"}\n\n'))
    final = ended(await deployment.generate("suno", prompt="A upbeat pop song about summer"))
    asked = upstream.once(*GENERATE)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.written == written({"model": "suno", "prompt": "A upbeat pop song about summer"})
    assert final["outputs"] == [{"url": SONG, "role": "audio", "type": "audio/mpeg"}]
    assert await deployment.balance() == 990


@pytest.mark.parametrize(("model", "style"), [("pika", "4"), ("run", "80s_vaporwave")])
async def test_a_style_is_sent_by_its_value(deployment: Deployment, upstream: Literal, model: str, style: str) -> None:
    upstream.on(*GENERATE, streamed(STREAM, COMPLETED))
    final = ended(await deployment.generate(model, prompt="A serene lake surrounded by mountains", style=style))
    sent = {"model": model, "prompt": "A serene lake surrounded by mountains", "style": style}
    assert upstream.once(*GENERATE).written == written(sent)
    assert final["outputs"] == [{"url": FILM, "role": "video", "type": "video/mp4"}]


@pytest.mark.parametrize("style", ["", None])
async def test_a_style_that_means_absent_is_not_sent(
    deployment: Deployment, upstream: Literal, style: str | None
) -> None:
    upstream.on(*GENERATE, streamed(COMPLETED))
    await deployment.generate("pika", prompt="x", style=style)
    assert "style" not in upstream.once(*GENERATE).json


@pytest.mark.parametrize(
    ("model", "style"), [("pika", "8"), ("pika", "Anime"), ("run", "Anime"), ("suno", "1"), ("luma", "anime")]
)
async def test_a_style_the_model_has_not_is_refused_by_name(
    deployment: Deployment, upstream: Literal, model: str, style: str
) -> None:
    refused = await deployment.http.post("/api/jobs", json={"model": model, "prompt": "x", "style": style})
    assert (refused.status_code, [fault["field"] for fault in refused.json()["errors"]]) == (422, ["style"])
    assert not upstream.requests


async def test_the_catalogue_has_the_pages_styles(deployment: Deployment) -> None:
    models = {model["id"]: model for model in (await deployment.http.get("/api/models")).json()["models"]}
    assert {"value": "7", "name": "Black & White"} in models["pika"]["styles"]
    assert {"value": "sci_fi_art", "name": "Sci-fi Art"} in models["run"]["styles"]
    assert [len(models[name]["styles"]) for name in ("suno", "luma", "pika", "run")] == [0, 0, 7, 25]
    assert [models[name]["tokens"] for name in ("suno", "luma", "pika", "run")] == [10, 30, 10, 30]


# --- what it says ---


async def test_the_pages_stream_is_shown_word_by_word_and_completes(deployment: Deployment, upstream: Literal) -> None:
    events = await filmed(deployment, upstream, streamed(STREAM, COMPLETED))
    assert words(events) == ["Processing started", "Processing", "Cookie generated", "Processing"]
    assert (ended(events)["status"], ended(events)["url"]) == ("Completed", FILM)


@pytest.mark.parametrize("word", ["Queued", "Cookie generated", "Uncompleted", "Error 404 page drawn"])
async def test_any_other_word_is_a_detail(deployment: Deployment, upstream: Literal, word: str) -> None:
    events = await filmed(deployment, upstream, streamed(f'data: {{"status": "{word}"}}\n\n'.encode(), COMPLETED))
    assert (words(events), ended(events)["status"]) == ([word], "Completed")


WIRES: dict[str, tuple[bytes, ...]] = {
    "byte by byte": tuple(bytes([byte]) for byte in STREAM + COMPLETED),
    "crlf": ((STREAM + COMPLETED).replace(b"\n", b"\r\n"),),
    "cr": ((STREAM + COMPLETED).replace(b"\n", b"\r"),),
    "no space": ((STREAM + COMPLETED).replace(b"data: ", b"data:"),),
    "comments and other fields": (b": hi\n\nretry: 3\n\nevent: x\nid: 7\n" + STREAM, b": ping\n", COMPLETED),
    "byte order mark": (b"\xef\xbb\xbf" + STREAM + COMPLETED,),
    "two data lines": (b'data: {"status": "Completed",\ndata: "url": "' + FILM.encode() + b'"}\n\n',),
}


@pytest.mark.parametrize("pieces", WIRES.values(), ids=WIRES)
async def test_a_stream_is_read_however_it_is_written(
    deployment: Deployment, upstream: Literal, pieces: tuple[bytes, ...]
) -> None:
    assert ended(await filmed(deployment, upstream, streamed(*pieces)))["url"] == FILM


async def test_frames_that_say_nothing_are_passed_over(deployment: Deployment, upstream: Literal) -> None:
    noise = b'data: {\n\ndata: []\n\ndata: 3\n\ndata: {}\n\ndata: {"status": 3}\n\ndata: {"status": ""}\n\ndata:\n\n'
    events = await filmed(deployment, upstream, streamed(noise, COMPLETED))
    assert (words(events), ended(events)["status"]) == ([], "Completed")


async def test_a_frame_whose_words_were_cut_inside_a_character_is_read(
    deployment: Deployment, upstream: Literal
) -> None:
    frame = COMPLETED.replace(b"}", rb', "title": "cut \ud83d"}')
    assert ended(await filmed(deployment, upstream, streamed(frame)))["url"] == FILM


async def test_what_came_before_a_break_counts(deployment: Deployment, upstream: Literal) -> None:
    assert ended(await filmed(deployment, upstream, streamed(STREAM, COMPLETED, cut=True)))["status"] == "Completed"


async def test_nothing_after_completed_is_read(deployment: Deployment, upstream: Literal) -> None:
    events = await filmed(
        deployment, upstream, streamed(COMPLETED, b'data: {"status": "Error", "message": "late"}\n\n')
    )
    assert ended(events)["status"] == "Completed"


@pytest.mark.parametrize("message", ['"Luma is at its peak"', '{"message": "Luma is at its peak"}'])
async def test_an_error_frame_ends_the_job_with_the_providers_words(
    deployment: Deployment, upstream: Literal, message: str
) -> None:
    frame = f'data: {{"status": "Error", "message": {message}}}\n\n'.encode()
    final = ended(await filmed(deployment, upstream, streamed(STREAM, frame)))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "upstream_failed", 30)
    assert "Luma is at its peak" in final["message"]
    assert await deployment.balance() == 1000


@pytest.mark.parametrize("word", ["completed", "COMPLETED"])
async def test_completed_may_be_spelt_in_any_case(deployment: Deployment, upstream: Literal, word: str) -> None:
    frame = COMPLETED.replace(b"Completed", word.encode())
    assert ended(await filmed(deployment, upstream, streamed(STREAM, frame)))["url"] == FILM


@pytest.mark.parametrize("word", ["error", "ERROR"])
async def test_an_error_frame_may_be_spelt_in_any_case(deployment: Deployment, upstream: Literal, word: str) -> None:
    frame = f'data: {{"status": "{word}", "message": "Luma is at its peak"}}\n\n'.encode()
    final = ended(await filmed(deployment, upstream, streamed(STREAM, frame)))
    assert (final["code"], final["message"]) == ("upstream_failed", "Luma is at its peak")


async def test_completed_without_a_url_is_a_failure(deployment: Deployment, upstream: Literal) -> None:
    final = ended(await filmed(deployment, upstream, streamed(STREAM, b'data: {"status": "Completed"}\n\n')))
    assert (final["code"], final["refunded"]) == ("upstream_failed", 30)


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut"])
@pytest.mark.parametrize("pieces", [(), (STREAM,), (STREAM, b'data: {"stat')], ids=["empty", "frames", "half a frame"])
async def test_a_stream_that_ends_without_a_result_is_interrupted_and_never_asked_for_again(
    deployment: Deployment, upstream: Literal, pieces: tuple[bytes, ...], cut: bool
) -> None:
    final = ended(await filmed(deployment, upstream, streamed(*pieces, cut=cut)))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", "interrupted", 30)
    assert len(upstream.asked(*GENERATE)) == 1
    assert await deployment.balance() == 1000


async def test_a_result_whose_last_blank_line_is_missing_is_still_the_result(
    deployment: Deployment, upstream: Literal
) -> None:
    assert ended(await filmed(deployment, upstream, streamed(STREAM, COMPLETED.rstrip())))["status"] == "Completed"


async def test_content_redirects_to_the_public_file(deployment: Deployment, upstream: Literal) -> None:
    job = ended(await filmed(deployment, upstream, streamed(COMPLETED)))["job"]
    answer = await deployment.http.get(f"/api/jobs/{job}/content")
    assert (answer.status_code, answer.headers["Location"]) == (302, FILM)


# --- what it refuses ---


def error(status: int, message: str) -> Reply:
    return said({"status": "Error", "message": message}, status)


REFUSALS = [
    (error(401, "Unauthorized"), "upstream_auth"),
    (error(418, "Insufficient tokens"), "upstream_credits"),
    (error(500, "Internal Server Error"), "upstream_failed"),
    (error(400, "Unknown model"), "upstream_rejected"),
    (error(200, "Unknown style"), "upstream_rejected"),
    (said({"status": "error", "message": "Unknown style"}), "upstream_rejected"),
    (said({"status": "?", "error": "Unknown style"}), "upstream_rejected"),
]


@pytest.mark.parametrize(("reply", "code"), REFUSALS, ids=[f"{r.status} {c}" for r, c in REFUSALS])
async def test_an_error_before_the_stream_ends_as_what_it_is_and_is_sent_once(
    deployment: Deployment, upstream: Literal, reply: Reply, code: str
) -> None:
    final = ended(await filmed(deployment, upstream, reply))
    assert (final["status"], final["code"], final["refunded"]) == ("Error", code, 30)
    assert reply.pieces[0].decode().split('"')[7] in final["message"]
    assert len(upstream.asked(*GENERATE)) == 1
    assert await deployment.balance() == 1000


async def test_no_tokens_with_http_200_is_the_operators_empty_account(
    deployment: Deployment, upstream: Literal
) -> None:
    assert ended(await filmed(deployment, upstream, error(200, "Insufficient tokens")))["code"] == "upstream_credits"


@pytest.mark.parametrize("status", [401, 418])
async def test_a_refusal_that_claims_to_be_a_stream_is_a_refusal(
    deployment: Deployment, upstream: Literal, status: int
) -> None:
    reply = Reply((b'data: {"status": "Error", "message": "no"}\n\n',), status, "text/event-stream")
    final = ended(await filmed(deployment, upstream, reply))
    assert final["code"] == {401: "upstream_auth", 418: "upstream_credits"}[status]


TAKEN = said({"status": "Processing", "message": "Your song is being generated"})


@pytest.mark.parametrize("reply", [page(500), page(502), page(200), said({}), said([]), TAKEN])
async def test_an_answer_that_says_nothing_is_an_unknown_outcome_and_never_asked_for_again(
    deployment: Deployment, upstream: Literal, reply: Reply
) -> None:
    final = ended(await filmed(deployment, upstream, reply))
    assert (final["code"], final["refunded"]) == ("outcome_unknown", 30)
    assert len(upstream.asked(*GENERATE)) == 1


async def test_an_order_that_was_too_much_is_sent_again(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*GENERATE, said({"status": "Error", "message": "busy"}, 429, Retry_After="2"), streamed(COMPLETED))
    assert ended(await deployment.generate("luma", prompt="x"))["status"] == "Completed"
    assert len(upstream.asked(*GENERATE)) == 2
