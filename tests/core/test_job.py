"""Jobs: the table of legal status changes, ids, and outputs."""

from dataclasses import fields, replace
from typing import Any

import orjson
import pytest

from proxy.core import job
from proxy.core.job import NEXT, Draft, Job, Order, Output, Role, Status, new_id

AT = 1_795_176_000.0  # 2026-11-20T12:00:00Z
STARTED = Job("job_1", "acct_1", "key_1", Order("gaga-1", {"prompt": "A cat"}), 20, AT, AT)
VIDEO = Output(Role.VIDEO, "video/mp4", n=0, url="https://cdn.example.com/cat.mp4")
FINAL = [Status.COMPLETED, Status.ERROR, Status.CANCELED]
LEGAL = {(before, after) for before in (Status.STARTED, Status.PROCESSING) for after in (Status.PROCESSING, *FINAL)}


# --- the table of state changes ---


@pytest.mark.parametrize("after", Status)
@pytest.mark.parametrize("before", Status)
def test_every_pair_of_statuses_is_legal_or_refused(before: Status, after: Status) -> None:
    now = replace(STARTED, status=before)
    if (before, after) in LEGAL:
        assert now.after(Draft(after), AT).status is after
    else:
        with pytest.raises(ValueError, match="cannot follow"):
            now.after(Draft(after), AT)


def test_a_job_begins_with_processing_started_and_nothing_else() -> None:
    assert NEXT[None] == {Status.STARTED}


def test_completed_error_and_canceled_are_final() -> None:
    assert [status for status in Status if status.final] == FINAL


def test_the_status_words_are_those_of_the_contract() -> None:
    assert [*Status] == ["Processing started", "Processing", "Completed", "Error", "Canceled"]


# --- a job after its next event ---


def test_the_next_event_is_counted_and_dated() -> None:
    after = STARTED.after(Draft(Status.PROCESSING), AT + 5)
    assert (after.event, after.created_at, after.updated_at) == (2, AT, AT + 5)


def test_detail_and_progress_last_until_the_next_ones() -> None:
    first = STARTED.after(Draft(Status.PROCESSING, {"detail": "Pending", "progress": 10}), AT)
    second = first.after(Draft(Status.PROCESSING, {"progress": 20}), AT)
    assert (second.detail, second.progress) == ("Pending", 20)


def test_an_update_adds_its_outputs() -> None:
    other = replace(VIDEO, n=1)
    first = STARTED.after(Draft(Status.PROCESSING, outputs=(VIDEO,)), AT)
    assert first.after(Draft(Status.PROCESSING, outputs=(other,)), AT).outputs == (VIDEO, other)


def test_fields_that_an_event_omits_are_kept() -> None:
    told = {"status", "event", "updated_at", "message", "code", "finish_reason"}
    given: dict[str, Any] = {field.name: object() for field in fields(Job) if field.name not in told}
    before = replace(STARTED, **given | {"outputs": (VIDEO,), "refunded": 5})
    after = before.after(Draft(Status.PROCESSING), AT + 1)
    kept = {field.name for field in fields(Job) if getattr(after, field.name) == getattr(before, field.name)}
    assert kept | told == {field.name for field in fields(Job)}


def test_the_final_event_replaces_the_outputs() -> None:
    first = STARTED.after(Draft(Status.PROCESSING, outputs=(VIDEO,)), AT)
    final = replace(VIDEO, url="https://cdn.example.com/final.mp4")
    assert first.after(Draft(Status.COMPLETED, outputs=(final,)), AT).outputs == (final,)


def test_an_error_gives_the_job_its_message_code_and_refund() -> None:
    draft = Draft(Status.ERROR, {"message": "It broke.", "code": "upstream_failed", "refunded": 20}, refund=20)
    failed = STARTED.after(draft, AT)
    assert (failed.message, failed.code, failed.refunded) == ("It broke.", "upstream_failed", 20)


def test_the_job_that_an_event_follows_is_not_changed() -> None:
    STARTED.after(Draft(Status.COMPLETED, outputs=(VIDEO,)), AT + 5)
    assert (STARTED.status, STARTED.event, STARTED.outputs) == (Status.STARTED, 1, ())


# --- orders and outputs ---


def test_an_order_as_json_is_flat_and_omits_empty_parts() -> None:
    order = Order("gaga-1", {"prompt": "A cat"})
    assert order.as_json() == {"model": "gaga-1", "prompt": "A cat"}
    full = replace(order, metadata={"user": "7"}, extra={"tier": 2})
    assert full.as_json() == {"model": "gaga-1", "prompt": "A cat", "metadata": {"user": "7"}, "extra": {"tier": 2}}


FULL_OUTPUT = Output(
    Role.VIDEO,
    "video/mp4",
    n=3,
    url="https://cdn.example.com/cat.mp4",
    blob="job_1-3",
    relayed=True,
    unique_id="row-3",
    status=Status.COMPLETED,
    message="Fine.",
    thumbnail_url="https://cdn.example.com/cat.jpg",
    ids={"inference_id": "9007199254740993"},
)


@pytest.mark.parametrize(
    "output",
    [Output(Role.IMAGE, "image/png"), VIDEO, replace(VIDEO, status=Status.ERROR, url=None, message="No."), FULL_OUTPUT],
)
def test_an_output_is_read_back_from_its_record_as_json(output: Output) -> None:
    record = orjson.loads(orjson.dumps(output))
    older = {name: value for name, value in record.items() if value}
    for read in (Output.from_record(record), Output.from_record(older)):
        assert read == output
        assert type(read.role) is Role
        assert read.status is output.status


def test_an_output_as_json_omits_absent_fields_and_flattens_ids() -> None:
    assert VIDEO.as_json(VIDEO.url) == {"url": "https://cdn.example.com/cat.mp4", "role": "video", "type": "video/mp4"}
    assert FULL_OUTPUT.as_json("https://x.example/") == {
        "url": "https://x.example/",
        "role": "video",
        "type": "video/mp4",
        "unique_id": "row-3",
        "status": "Completed",
        "message": "Fine.",
        "thumbnail_url": "https://cdn.example.com/cat.jpg",
        "inference_id": "9007199254740993",
    }


def test_an_item_with_status_error_has_failed() -> None:
    assert replace(VIDEO, status=Status.ERROR).failed
    assert not replace(VIDEO, status=Status.COMPLETED).failed
    assert not VIDEO.failed


# --- ids and events ---


def test_ids_sort_in_the_order_of_their_making() -> None:
    ids = [new_id("job") for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert all(made.startswith("job_") for made in ids)


def test_an_event_begins_with_status_job_model_number_and_time() -> None:
    data = job.encode(STARTED, Draft(Status.PROCESSING, {"detail": "Pending", "progress": 12.5}), 2, AT)
    assert data == (
        b'{"status":"Processing","job":"job_1","model":"gaga-1","n":2,"at":"2026-11-20T12:00:00.000Z",'
        b'"detail":"Pending","progress":12.5}'
    )


def test_the_line_separators_that_json_allows_are_escaped() -> None:
    data = job.encode(STARTED, Draft(Status.PROCESSING, {"detail": "\x85\u2028\u2029"}), 2, AT)
    assert data.endswith(b'"detail":"\\u0085\\u2028\\u2029"}')


def test_letters_beyond_ascii_are_not_escaped() -> None:
    data = job.encode(STARTED, Draft(Status.PROCESSING, {"detail": "猫 é Â…"}), 2, AT)
    assert data.endswith('"detail":"猫 é Â…"}'.encode())
