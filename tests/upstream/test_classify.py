"""Classification of answers without sockets: which error a status, a code or a phrase means."""

from collections.abc import Mapping

import pytest

from proxy.core import errors
from proxy.upstream.answers import (
    Answer,
    CredentialRefused,
    CreditRefused,
    GatewayRefusal,
    NotTaken,
    RateLimited,
    ReadFailed,
    Transient,
    UnknownToProvider,
    UnreadableAnswer,
)
from proxy.upstream.classify import Dialect, message_of

KEY = "sk-secret-123"
CREDENTIAL = {"Authorization": f"Bearer {KEY}"}
HTML = b"<html><h1>Internal Server Error</h1></html>"
DIALECT = Dialect(CREDENTIAL, no_credit=("insufficient credits",), retired=(405,), bad_file=("invalid file format",))
UNKNOWN = "the order may have been taken, so it is not sent again."


def answer(status: int, body: bytes = b'{"message":"No."}', headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, headers or {}, body, at=0)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(400), errors.UpstreamRejected),
        (answer(400, b'{"message":"Insufficient credits"}'), errors.UpstreamCredits),
        (answer(401), errors.UpstreamAuth),
        (answer(405), errors.UpstreamRetired),
        (answer(418), errors.UpstreamCredits),
        (answer(429), NotTaken),
        (answer(500), errors.UpstreamFailed),
        (answer(500, HTML), errors.OutcomeUnknown),
        (answer(502), errors.OutcomeUnknown),
        (answer(503, headers={"retry-after": "3"}), NotTaken),
    ],
)
def test_each_failed_submit_has_its_error(given: Answer, kind: type[Exception]) -> None:
    assert type(DIALECT.submit_error(given)) is kind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(302), UnreadableAnswer),
        (answer(401), CredentialRefused),
        (answer(402), CreditRefused),
        (answer(404), UnknownToProvider),
        (answer(404, HTML), UnreadableAnswer),
        (answer(429), RateLimited),
        (answer(500, b'{"message":"Insufficient credits"}'), CreditRefused),
        (answer(502, b'{"message":"Insufficient credits"}'), Transient),
        (answer(503), Transient),
    ],
)
def test_each_failed_read_has_its_error(given: Answer, kind: type[ReadFailed]) -> None:
    assert type(DIALECT.read_error(given)) is kind


def test_not_found_in_json_proves_the_key() -> None:
    assert DIALECT.key_error(answer(404)) is None
    assert type(DIALECT.key_error(answer(404, HTML))) is UnreadableAnswer
    assert type(DIALECT.key_error(answer(401))) is CredentialRefused


def test_only_a_5xx_with_the_phrase_blames_the_file() -> None:
    phrase = b'{"message":"Invalid file format"}'
    assert DIALECT.blames_file(answer(500, phrase))
    assert not DIALECT.blames_file(answer(400, phrase))
    assert not DIALECT.blames_file(answer(500))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": "Prompt blocked"}, errors.UpstreamFailed),
        ({"error": "Insufficient credits"}, errors.UpstreamCredits),
        ({"error": "Invalid API key"}, errors.UpstreamAuth),
    ],
)
def test_a_failure_of_the_work_has_its_error(body: object, kind: type[errors.JobError]) -> None:
    assert type(DIALECT.failure(body, "No reason.")) is kind


def test_a_failure_without_a_reason_has_the_default_message() -> None:
    assert DIALECT.failure({}, "No reason.").message == "No reason."


def test_neither_the_key_nor_the_proxys_password_is_shown() -> None:
    dialect = Dialect(CREDENTIAL, proxy_secrets=["pass-word"])
    assert dialect.safe_text(f"{KEY} pass-word") == "[key] [key]"
    assert not any(secret in repr(dialect) for secret in (KEY, "pass-word"))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"code":40009,"message":"No."}', errors.UpstreamCredits),
        (b'{"code":400112,"message":"No."}', errors.UpstreamAuth),
        (b'{"code":1,"message":"No."}', errors.UpstreamRejected),
        (HTML, GatewayRefusal),
    ],
)
def test_a_refusal_with_200_means_the_same_as_with_400(body: bytes, kind: type[errors.JobError]) -> None:
    dialect = Dialect(CREDENTIAL, no_credit=("40009",), refused_key=("400112",))
    assert type(dialect.refusal_in_success(answer(200, body))) is kind


def test_a_success_without_a_ticket_may_report_an_empty_account() -> None:
    dialect = Dialect(CREDENTIAL, no_credit=("40009",))
    unknown = dialect.missing_ticket(answer(200, b"{}"), "names no id")
    assert type(unknown) is errors.OutcomeUnknown
    assert "its answer names no id" in unknown.message
    empty = dialect.missing_ticket(answer(200, b'{"code":40009,"message":"No credit."}'), "names no id")
    assert type(empty) is errors.UpstreamCredits


def test_a_refusal_with_200_keeps_its_status_in_the_message() -> None:
    refusal = answer(200, b'{"message": "Unknown style"}')
    assert str(DIALECT.refusal_in_success(refusal)) == "Unknown style (HTTP 200)"


@pytest.mark.parametrize(
    "body", [b'{"error": "Prompt blocked"}', b'{"data": null, "error": {"message": "Prompt blocked"}}']
)
def test_a_success_with_an_error_instead_of_a_ticket_is_a_refusal(body: bytes) -> None:
    error = DIALECT.missing_ticket(answer(200, body), "names no id")
    assert (type(error), str(error)) == (errors.UpstreamRejected, "Prompt blocked (HTTP 200)")


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"{}", ""), (b'{"error": null}', ""), (b"[]", ""), (b'{"detail": "Slow today"}', " Slow today")],
)
def test_a_success_without_a_ticket_has_an_unknown_outcome_and_its_message(body: bytes, words: str) -> None:
    error = DIALECT.missing_ticket(answer(200, body), "names no id")
    assert type(error) is errors.OutcomeUnknown
    assert str(error) == f"The provider answered HTTP 200, but its answer names no id: {UNKNOWN}{words}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("  It broke. ", "It broke."),
        ({"message": "It broke."}, "It broke."),
        ({"error": "It broke."}, "It broke."),
        ({"error": {"message": "It broke.", "type": "x", "code": 5}}, "It broke."),
        ({"detail": "It broke."}, "It broke."),
        ({"detail": {"message": "It broke."}}, "It broke."),
        ({"msg": "It broke."}, "It broke."),
        ({"failReason": "It broke."}, "It broke."),
        ({"reason": "It broke."}, "It broke."),
        ({"code": 1, "message": "It broke.", "data": None}, "It broke."),
        ({"message": None, "error": {"message": "It broke."}}, "It broke."),
        ({"message": "", "detail": "It broke."}, "It broke."),
        ([{"message": "It broke."}, {"message": "Again."}], "It broke.; Again."),
        (
            {"detail": [{"loc": ["body", "chunks", 0], "msg": "field required", "type": "missing"}]},
            "field required (body.chunks.0)",
        ),
        (
            {"detail": [{"loc": ["body", "a"], "msg": "one"}, {"loc": ["body", "b"], "msg": "two"}]},
            "one (body.a); two (body.b)",
        ),
        ({"loc": "prompt", "msg": "field required"}, "field required (prompt)"),
    ],
)
def test_the_message_of_an_error_is_found_in_every_shape(body: object, message: str) -> None:
    assert message_of(body) == message


@pytest.mark.parametrize("body", [None, 5, True, "", " ", {}, [], [[]], {"error": {}}, {"message": 5}, {"status": "x"}])
def test_a_body_without_a_message_has_none(body: object) -> None:
    assert message_of(body) is None


def test_a_message_is_one_line_of_at_most_500_characters() -> None:
    dialect = Dialect(CREDENTIAL)
    assert dialect.safe_text("a\r\n b\t\0c \u2028 d") == "a b \0c d"
    assert dialect.safe_text("x" * 1000) == "x" * 500


def test_an_empty_key_masks_nothing() -> None:
    dialect = Dialect({"X-Api-Key": ""})
    assert dialect.safe_text("It broke.") == "It broke."
