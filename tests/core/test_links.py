"""Links: signatures, expiry, and changed or foreign URLs."""

import string
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from proxy.core.errors import InvalidRequest, Unauthorized
from proxy.core.job import Output, Role, Status
from proxy.core.links import Links, Signed, mask_signatures
from tests.support.deployment import JumpClock

PATH = "/api/jobs/job_1/events"
SECRET = b"s" * 32


@pytest.fixture
def clock() -> JumpClock:
    return JumpClock()


@pytest.fixture
def links(clock: JumpClock) -> Links:
    return make(clock)


def make(clock: JumpClock, *secrets: bytes, relay: bool = False) -> Links:
    return Links(secrets or (SECRET,), "https://cast.example.com/", clock, ttl=3600, relay=relay)


def query_of(link: str) -> str:
    return urlsplit(link).query


def changed(link: str, **values: str) -> str:
    return urlencode(dict(parse_qsl(query_of(link))) | values)


def without(link: str, name: str) -> str:
    return urlencode([pair for pair in parse_qsl(query_of(link)) if pair[0] != name])


def believed(links: Links, path: str, query: str) -> str:
    """The key's id, of a Link that is believed."""
    return links.check(path, query).key


def refused(links: Links, path: str, query: str) -> bool:
    with pytest.raises(Unauthorized, match="Link"):
        links.check(path, query)
    return True


# --- a Link that is believed ---


def test_a_link_is_an_absolute_url_with_its_key_s_id(links: Links) -> None:
    link = links.sign(PATH, "key_1")
    assert link.startswith("https://cast.example.com/api/jobs/job_1/events?key=key_1&expires=1800003600&signature=")
    assert believed(links, PATH, query_of(link)) == "key_1"


def test_a_link_keeps_its_own_query(links: Links) -> None:
    link = links.sign("/api/events", "key_1", query="jobs=job_1,job_2&empty=")
    assert dict(parse_qsl(query_of(link), keep_blank_values=True))["jobs"] == "job_1,job_2"
    assert believed(links, "/api/events", query_of(link)) == "key_1"


def test_last_event_id_may_be_appended_and_changed(links: Links) -> None:
    query = query_of(links.sign(PATH, "key_1"))
    assert believed(links, PATH, f"{query}&lastEventId=7") == "key_1"
    assert believed(links, PATH, f"lastEventId=&{query}&lastEventId=8") == "key_1"


def test_the_order_of_the_parameters_does_not_matter(links: Links) -> None:
    pairs = parse_qsl(query_of(links.sign("/api/events", "key_1", query="jobs=job_1")))
    assert believed(links, "/api/events", urlencode(pairs[::-1])) == "key_1"


def test_a_path_beyond_ascii_can_be_signed(links: Links) -> None:
    assert believed(links, "/api/assets/猫/content", query_of(links.sign("/api/assets/猫/content", "key_1"))) == "key_1"


# --- and one that is not ---


def test_a_signature_has_one_spelling() -> None:
    links = Links([b"secret"], "https://cast.example.com", JumpClock(), ttl=60)
    path, _, query = links.sign("/api/events", "key_1").removeprefix("https://cast.example.com").partition("?")
    assert links.check(path, query).key == "key_1"
    for letter in set(string.ascii_letters + string.digits + "-_=%~") - {query[-1]}:
        with pytest.raises(Unauthorized):
            links.check(path, query[:-1] + letter)


@pytest.mark.parametrize("path", ["/api/jobs/job_2/events", "/api/jobs/job_1/content", PATH + "/", "", PATH.upper()])
def test_an_altered_path_is_refused(links: Links, path: str) -> None:
    assert refused(links, path, query_of(links.sign(PATH, "key_1")))


@pytest.mark.parametrize(
    "values",
    [
        {"jobs": "job_2"},
        {"key": "key_2"},
        {"expires": "1900000000"},
        {"expires": "never"},
        {"expires": ""},
        {"added": "1"},
        {"signature": ""},
        {"signature": "nonsense"},
        {"signature": "é\0"},
        {"lasteventid": "1"},
    ],
)
def test_an_altered_or_added_parameter_is_refused(links: Links, values: dict[str, str]) -> None:
    link = links.sign("/api/events", "key_1", query="jobs=job_1")
    assert refused(links, "/api/events", changed(link, **values))


@pytest.mark.parametrize("name", ["jobs", "key", "expires", "signature"])
def test_a_removed_parameter_is_refused(links: Links, name: str) -> None:
    assert refused(links, "/api/events", without(links.sign("/api/events", "key_1", query="jobs=job_1"), name))


@pytest.mark.parametrize("name", ["key", "expires", "jobs"])
def test_a_repeated_parameter_is_refused(links: Links, name: str) -> None:
    query = query_of(links.sign("/api/events", "key_1", query="jobs=job_1"))
    assert refused(links, "/api/events", f"{query}&{name}=1900000000")


@pytest.mark.parametrize(
    "query", ["", "key=key_1", "key=key_1&expires=1&signature=x", "%", "&&==", "signature", "%ff=%fe", "expires=x"]
)
def test_a_query_that_was_never_a_link_is_refused(links: Links, query: str) -> None:
    assert refused(links, PATH, query)


def test_a_query_cannot_be_moved_into_the_path(links: Links) -> None:
    link = links.sign("/api/events", "key_1", query="jobs=job_1")
    assert refused(links, "/api/events?jobs=job_1", without(link, "jobs"))


@pytest.mark.parametrize("query", ["key=key_theirs", "jobs=job_1&expires=9999999999", "expires=never", "signature="])
def test_a_path_with_a_link_s_parameters_cannot_be_signed(links: Links, query: str) -> None:
    # It would be signed along; moved behind the real one, it would win.
    with pytest.raises(InvalidRequest, match="cannot hold expires, key, signature"):
        links.sign(PATH, "key_mine", query=query)


def test_the_order_of_a_repeated_parameter_is_signed_too(links: Links) -> None:
    # Servers that read a query take the last one.
    query = query_of(links.sign("/api/events", "key_1", query="jobs=job_1&jobs=job_2"))
    assert believed(links, "/api/events", query) == "key_1"
    assert refused(links, "/api/events", query.replace("job_1", "x").replace("job_2", "job_1").replace("x", "job_2"))


# --- time and secrets ---


def test_check_returns_the_expiry_of_a_link(links: Links) -> None:
    assert links.check(PATH, query_of(links.sign(PATH, "key_1", 1_800_000_007))) == Signed("key_1", 1_800_000_007)


def test_a_link_expires_in_the_second_that_it_names(links: Links, clock: JumpClock) -> None:
    query = query_of(links.sign(PATH, "key_1", links.expiry(60)))
    clock.at += 59.9
    assert believed(links, PATH, query) == "key_1"
    clock.at += 0.1
    with pytest.raises(Unauthorized, match="expired"):
        links.check(PATH, query)


def test_a_link_of_another_secret_is_refused(links: Links, clock: JumpClock) -> None:
    assert refused(links, PATH, query_of(make(clock, b"t" * 32).sign(PATH, "key_1")))


def test_an_old_secret_verifies_links_and_signs_no_new_ones(clock: JumpClock) -> None:
    old, new = b"o" * 32, b"n" * 32
    before, during, after = make(clock, old), make(clock, new, old), make(clock, new)
    link = query_of(before.sign(PATH, "key_1"))
    assert believed(during, PATH, link) == "key_1"
    assert refused(after, PATH, link)
    assert believed(after, PATH, query_of(during.sign(PATH, "key_1"))) == "key_1"


# --- where outputs are opened ---

PUBLIC = Output(Role.VIDEO, "video/mp4", n=2, url="https://cdn.example.com/cat.mp4")


def test_a_public_output_is_opened_at_the_provider(links: Links) -> None:
    assert links.to_output("job_1", PUBLIC, "key_1") == "https://cdn.example.com/cat.mp4"


def test_with_relay_a_public_output_is_opened_behind_a_link(clock: JumpClock) -> None:
    links = make(clock, relay=True)
    link = links.to_output("job_1", PUBLIC, "key_1") or ""
    assert link.startswith("https://cast.example.com/api/jobs/job_1/content/2?")
    assert believed(links, "/api/jobs/job_1/content/2", query_of(link)) == "key_1"


def test_an_output_without_a_public_url_is_opened_behind_a_link(links: Links) -> None:
    link = links.to_output("job_1", Output(Role.TEXT, "text/plain", blob="job_1-0"), "key_1") or ""
    assert believed(links, "/api/jobs/job_1/content/0", query_of(link)) == "key_1"


def test_a_failed_output_is_opened_nowhere(links: Links) -> None:
    assert links.to_output("job_1", Output(Role.VIDEO, "video/mp4", status=Status.ERROR), "key_1") is None


# --- in logs ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/api/jobs/job_1/events", "/api/jobs/job_1/events"),
        (
            "/api/events?jobs=a&key=key_1&expires=1&signature=hush",
            "/api/events?jobs=a&key=key_1&expires=1&signature=***",
        ),
        (
            "https://cast.example.com/x?signature=hush&lastEventId=7",
            "https://cast.example.com/x?signature=***&lastEventId=7",
        ),
        ("/x?signature=hush&signature=hush", "/x?signature=***&signature=***"),
        ("/x?sign%61ture=hush&SIGNATURE=hush", "/x?sign%61ture=***&SIGNATURE=***"),
        ("/x?X-Amz-Signature=hush", "/x?X-Amz-Signature=***"),
        ("/x?q=a=signature&signature", "/x?q=a=signature&signature"),
        ("/x?", "/x?"),
    ],
)
def test_a_signature_is_masked_in_a_url_that_is_logged(url: str, shown: str) -> None:
    assert mask_signatures(url) == shown


def test_a_masked_link_opens_nothing(links: Links) -> None:
    assert refused(links, PATH, query_of(mask_signatures(links.sign(PATH, "key_1"))))
