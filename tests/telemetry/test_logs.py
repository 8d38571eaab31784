"""Log formats, and secrets masked in logs."""

import logging
import sys
from collections.abc import Iterator

import orjson
import pytest

from proxy.telemetry import logs
from proxy.telemetry.logs import ConsoleFormatter, JsonFormatter, Mask, request_id

KEY = "pollcast_jBAT0aEIY43-UtMXsP29yGfyimnChmaqsExQLRJpuBk649081"


@pytest.fixture
def own_root() -> Iterator[None]:
    """The root logger, put back in the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def record(message: str, *arguments: object, **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("proxy.test", logging.INFO, "", 0, message, arguments, None)
    made.created = 1_800_000_000.5
    vars(made).update(facts)
    return made


def raised(message: str) -> logging.LogRecord:
    made = record("It failed")
    try:
        int(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


# --- form ---


def test_a_record_is_one_json_object_with_its_facts_and_its_request() -> None:
    token = request_id.set("req-1")
    line = orjson.loads(JsonFormatter(Mask()).format(record("job %s", "made", job="job_1", tokens=20)))
    request_id.reset(token)
    assert line == {
        "at": "2027-01-15T08:00:00.500Z",
        "level": "info",
        "logger": "proxy.test",
        "message": "job made",
        "request": "req-1",
        "job": "job_1",
        "tokens": 20,
    }


def test_a_record_is_one_line_for_a_person() -> None:
    text = ConsoleFormatter(Mask()).format(record("job ordered", job="job_1"))
    assert text == "2027-01-15T08:00:00.500Z INFO    proxy.test: job ordered job=job_1"


def test_foreign_text_adds_no_line_and_no_color() -> None:
    text = ConsoleFormatter(Mask()).format(record("path %s", "/a\nERROR fake\x1b[31m\u2028", detail="b\r\nc"))
    assert text.endswith(r"path /a\nERROR fake\x1b[31m\u2028 detail=b\r\nc")
    assert len(JsonFormatter(Mask()).format(record("path %s", "/a\nb")).splitlines()) == 1


def test_a_traceback_is_logged_in_both_formats() -> None:
    made = raised("no number")
    assert "ValueError: invalid literal" in ConsoleFormatter(Mask()).format(made)
    assert "'no number'" in orjson.loads(JsonFormatter(Mask()).format(made))["trace"]


@pytest.mark.usefixtures("own_root")
def test_the_level_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "warning")
    logging.getLogger("proxy.test").info("quiet")
    logging.getLogger("proxy.test").warning("loud")
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().err.splitlines()] == ["loud"]


# --- secrets ---

SECRETS = [
    (KEY, KEY.removeprefix("pollcast_")),
    ("Authorization: Bearer sim-secret-1", "sim-secret-1"),
    ("{'authorization': 'bearer sim-secret-1'}", "sim-secret-1"),
    ("X-Api-Key: hush-hush", "hush-hush"),
    ("/api/jobs/job_1/events?key=key_1&expires=1&signature=aBc-_123&jobs=a", "aBc-_123"),
    ("https://bucket.example/x?X-Amz-Signature=deadbeef", "deadbeef"),
    ("redis://user:pa55word@cache:6379/0", "pa55word"),
    ("the operator's own is sk-operator", "sk-operator"),
]


@pytest.mark.parametrize("form", [JsonFormatter, ConsoleFormatter])
@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_is_masked_in_every_part_of_a_record(form: type[JsonFormatter], text: str, secret: str) -> None:
    mask = Mask()
    mask.hide(["sk-operator"])
    for made in (record(text), record("%s", text), record("x", detail=text), record("x", path=[text]), raised(text)):
        line = form(mask).format(made)
        assert secret not in line
        assert "***" in line


def test_text_next_to_a_secret_is_still_logged() -> None:
    line = ConsoleFormatter(Mask()).format(record("/api/events?key=key_1&signature=aBc&jobs=a"))
    assert line.endswith("/api/events?key=key_1&signature=***&jobs=a")


def test_a_very_short_secret_does_not_mask_ordinary_words() -> None:
    mask = Mask()
    mask.hide(["e", ""])
    assert mask("there it is") == "there it is"


def test_the_longest_of_two_secrets_is_masked_whole() -> None:
    mask = Mask()
    mask.hide(["secret", "secret-and-more"])
    assert mask("a secret-and-more b") == "a *** b"
