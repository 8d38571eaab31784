"""Server-sent events: encoding, and parsing of streams in pieces of every size."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import job, sse
from proxy.core.job import Draft, Job, Order, Status
from proxy.core.sse import Message, MessageTooLong, Parser

AT = 1_795_176_000.0
JOB = Job("job_1", "acct_1", "key_1", Order("gaga-1"), tokens=20, created_at=AT, updated_at=AT)

STREAM = (
    "\ufeffretry: 2000\n"
    ": a comment, then an event with a type and an id\n"
    "event: add\ndata: 73857293\nid: 7\n\n"
    "data: two\ndata: lines\n\n"
    ": keep-alive\n"
    "data: Grüße, 猫 🐈\nid\n\n"
)
MESSAGES = [
    Message("73857293", "add", "7"),
    Message("two\nlines", "message", "7"),
    Message("Grüße, 猫 🐈", "message", ""),
]


def parse(*chunks: bytes) -> list[Message]:
    parser = Parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def data_of(text: str) -> list[str]:
    return [message.data for message in parse(text.encode())]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def encoded(message: str) -> bytes:
    return job.encode(JOB, Draft(Status.ERROR, {"message": message}), 2, AT)


# --- writing ---


def test_a_frame_puts_data_before_id() -> None:
    assert sse.frame(b'{"status":"Completed"}', 3) == b'data: {"status":"Completed"}\nid: 3\n\n'


@pytest.mark.parametrize("data", [b"a\nb", b"a\rb", b"a\r\nb", b"\n", b"a\r"])
def test_a_frame_refuses_data_with_a_line_end(data: bytes) -> None:
    with pytest.raises(ValueError, match="one line"):
        sse.frame(data, 1)


def test_a_connection_opens_with_one_retry_line_and_no_blank_line() -> None:
    assert sse.RETRY == b"retry: 2000\n"


def test_a_heartbeat_is_one_comment_line_and_no_blank_line() -> None:
    assert sse.HEARTBEAT == b": keep-alive\n"


def test_heartbeats_and_retry_lines_are_no_part_of_a_message() -> None:
    assert parse(sse.RETRY + sse.HEARTBEAT + sse.frame(b"{}", 1)) == [Message("{}", "message", "1")]


@pytest.mark.parametrize(
    "separator",
    ["\n", "\r", "\r\n", "\0", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"],
    ids=lambda text: text.encode("unicode_escape").decode(),
)
def test_line_ends_in_a_message_survive_framing(separator: str) -> None:
    message = f"one{separator}id: 9{separator}{separator}data: two"
    frame = sse.frame(encoded(message), 2)
    assert len(frame.splitlines()) == len(frame.decode().splitlines()) == 3
    (received,) = parse(frame)
    assert received.id == "2"
    assert orjson.loads(received.data)["message"] == message


@given(st.text(), st.lists(st.integers(0, 400)))
def test_any_text_survives_encoding_and_any_cut(message: str, places: list[int]) -> None:
    frame = sse.frame(encoded(message), 2)
    assert len(frame.decode().splitlines()) == 3
    (received,) = parse(*cut(frame, places))
    assert orjson.loads(received.data)["message"] == message


# --- reading: the examples of the WHATWG standard, section 9.2.6 ---


def test_the_lines_of_a_stock_ticker_are_one_message() -> None:
    assert parse(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [Message("YHOO\n+2\n10")]


def test_comments_are_ignored_and_an_empty_id_resets_it() -> None:
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert parse(stream) == [Message("first event", id="1"), Message("second event"), Message(" third event")]


def test_data_without_a_colon_is_empty_and_blocks_need_blank_lines() -> None:
    assert data_of("data\n\ndata\ndata\n\ndata:") == ["", "\n"]


def test_one_space_after_the_colon_is_ignored() -> None:
    assert data_of("data:test\n\ndata: test\n\n") == ["test", "test"]


# --- reading: the rest of the grammar ---


def test_an_event_field_names_the_type_of_that_message_only() -> None:
    assert parse(b"event: add\ndata: 1\n\ndata: 2\n\n") == [Message("1", "add"), Message("2", "message")]


def test_the_event_of_a_block_without_data_is_forgotten() -> None:
    assert parse(b"event: add\n\ndata: 1\n\n") == [Message("1", "message")]


def test_an_id_lasts_until_the_next_one() -> None:
    assert [message.id for message in parse(b"id: 1\ndata\n\ndata\n\nid: 2\n\ndata\n\n")] == ["1", "1", "2"]


def test_an_id_with_a_nul_is_ignored() -> None:
    assert parse(b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n") == [Message("a", id="1"), Message("b", id="1")]


def test_a_field_of_an_unknown_name_is_ignored() -> None:
    assert parse(b"retry: 10\ndat: no\ndata : no\n data: no\nDATA: no\ndata: yes\n\n") == [Message("yes")]


def test_a_value_keeps_its_further_colons_and_spaces() -> None:
    assert data_of("data:  a: b \n\n") == [" a: b "]


def test_bytes_that_are_not_utf_8_become_replacement_characters() -> None:
    assert parse(b"data: a\xffb\n\n") == [Message("a\ufffdb")]


def test_a_byte_order_mark_is_taken_off_the_start_only() -> None:
    assert data_of("\ufeffdata: 1\n\ndata: \ufeff2\n\n\ufeffdata: 3\n\n") == ["1", "\ufeff2"]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_a_stream_cut_at_any_two_places_reads_the_same(end: str) -> None:
    stream = STREAM.replace("\n", end).encode()
    for first in range(len(stream) + 1):
        for second in range(first, min(first + 4, len(stream)) + 1):
            assert parse(stream[:first], stream[first:second], stream[second:]) == MESSAGES


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_a_stream_read_byte_by_byte_gives_the_same_messages(end: str) -> None:
    stream = STREAM.replace("\n", end).encode()
    assert parse(*(stream[place : place + 1] for place in range(len(stream)))) == MESSAGES


@given(st.text(alphabet="\r\n\ufeff:adtie \0x"), st.lists(st.integers(0, 100)))
def test_any_stream_gives_the_same_messages_at_any_cut(text: str, places: list[int]) -> None:
    stream = text.encode()
    assert parse(*cut(stream, places)) == parse(stream)


@given(st.lists(st.sampled_from(["data", "data: x", "id: 1", "event: e", ":", ""])), st.data())
def test_line_ends_may_be_mixed(lines: list[str], data: st.DataObject) -> None:
    # A lone CR before an empty line that ends in LF would be read as one CRLF.
    ends = [data.draw(st.sampled_from(["\r\n", "\n"])) for _ in lines]
    mixed = "".join(line + end for line, end in zip(lines, ends, strict=True))
    assert parse(mixed.encode()) == parse("".join(line + "\r" for line in lines).encode())


def test_a_message_is_yielded_at_its_cr_without_the_next_byte() -> None:
    parser = Parser()
    assert list(parser.feed(b"data: 1\r\r")) == [Message("1")]
    assert list(parser.feed(b"\ndata: 2\r\n\r")) == [Message("2")]


@pytest.mark.parametrize("rest", [b"data: 2", b"data: 2\n", b"data: 2\r"])
def test_a_clean_end_yields_a_message_without_blank_line(rest: bytes) -> None:
    # The standard would drop it; AI-Now's page shows streams that end so.
    parser = Parser()
    assert list(parser.feed(b"data: 1\n\n" + rest)) == [Message("1")]
    assert list(parser.end()) == [Message("2")]


@pytest.mark.parametrize("stream", [b"", b"data: 1\n\n", b"data: 1\n\n: bye", b"data: 1\n\nid: 3\n"])
def test_a_stream_that_ends_after_a_message_yields_no_further_one(stream: bytes) -> None:
    parser = Parser()
    list(parser.feed(stream))
    assert list(parser.end()) == []


# --- reading: the limit ---


def test_a_message_of_just_the_limit_passes_again_and_again() -> None:
    assert len(list(Parser(limit=10).feed(b"data: 1234\n\n" * 5))) == 5


@pytest.mark.parametrize("stream", [b"data: 12345", b"data: 12345\n\n", b"data\ndata\ndata\n", b":" * 11])
def test_a_message_over_the_limit_is_refused(stream: bytes) -> None:
    with pytest.raises(MessageTooLong, match="longer than 10 bytes"):
        list(Parser(limit=10).feed(stream))


def test_a_message_that_drips_is_refused_when_it_passes_the_limit() -> None:
    parser = Parser(limit=10)
    for _ in range(10):
        assert list(parser.feed(b"d")) == []
    with pytest.raises(MessageTooLong):
        list(parser.feed(b"d"))


def test_messages_before_a_too_long_one_are_still_yielded() -> None:
    messages = Parser(limit=10).feed(b"data: 1\n\ndata: 12345\n\n")
    assert next(messages) == Message("1")
    with pytest.raises(MessageTooLong):
        next(messages)


def test_heartbeats_do_not_add_up_to_a_message_that_is_too_long() -> None:
    assert list(Parser(limit=100).feed(sse.HEARTBEAT * 20)) == []


def test_a_chunk_begins_with_its_length_in_hexadecimal() -> None:
    assert sse.chunk(b"x" * 31) == b"1f\r\n" + b"x" * 31 + b"\r\n"


def test_empty_data_gives_no_chunk() -> None:
    assert sse.chunk(b"") == b""
