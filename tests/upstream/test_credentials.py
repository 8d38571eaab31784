"""Credentials of a provider: signed tokens, parameters of the query, further origins, names that must be public."""

import jwt
import pytest
from yarl import URL

from proxy.core import errors
from proxy.upstream.answers import NotTaken, Transient, UnreadableAnswer
from proxy.upstream.classify import Dialect
from proxy.upstream.client import Upstream
from proxy.upstream.credentials import SignedHeader
from proxy.upstream.fetch import Fetcher, ProviderOrigin
from proxy.upstream.requests import Request
from tests.support.deployment import JumpClock
from tests.support.site import Handler, Site
from tests.support.stepped_clock import SteppedClock
from tests.upstream.test_upstream import reply

PAIR = "access:a-secret-of-at-least-thirty-two-bytes"


def signed(clock: SteppedClock, lifetime: int = 600) -> SignedHeader:
    return SignedHeader("Authorization", "Bearer {key}", PAIR, clock, lifetime=lifetime, backdate=5)


async def test_a_token_is_signed_anew_before_it_expires() -> None:
    clock = SteppedClock()
    header = signed(clock)
    first = header["Authorization"]
    await clock.step(299)
    assert header["Authorization"] == first
    await clock.step(2)
    renewed = jwt.decode(header["Authorization"][7:], PAIR[7:], algorithms=["HS256"], options={"verify_exp": False})
    assert renewed == {"iss": "access", "exp": int(clock.at) + 600, "nbf": int(clock.at) - 5}


async def test_a_clock_that_is_set_back_renews_the_token() -> None:
    clock = SteppedClock()
    header = signed(clock)
    first = header["Authorization"]
    clock.at -= 3600
    assert header["Authorization"] != first


async def test_a_tokens_account_stays_while_the_token_changes() -> None:
    clock = SteppedClock()
    dialect = Dialect(signed(clock), signing_key=PAIR)
    before, token = dialect.account, dialect.credential["Authorization"]
    await clock.step(400)
    assert dialect.account == before
    assert dialect.credential["Authorization"] != token
    assert "a-secret-of-at-least-thirty-two-bytes" in dialect.secrets


async def test_a_key_in_the_query_is_masked_in_messages() -> None:
    dialect = Dialect(query_credential={"key": "sk-secret"})
    assert dialect.safe_text("the key sk-secret is bad") == "the key [key] is bad"


def moved_to(url: str) -> Handler:
    return reply(302, headers={"Location": url})


async def test_a_redirect_to_a_further_origin_keeps_the_key() -> None:
    async with Site(reply(body={"id": 1})) as second, Site(moved_to(f"{second.url}/x")) as first:
        dialect = Dialect({"X-Key": "k"}, headers={"X-Version": "1"})
        others = [URL(second.url)]
        async with Upstream(first.url, dialect, JumpClock(), rate=50, others=others) as upstream:
            assert (await upstream.get("/a")).json() == {"id": 1}
    assert (second.asked[0].headers["X-Key"], second.asked[0].headers["X-Version"]) == ("k", "1")


async def test_a_redirect_to_any_other_origin_is_not_followed() -> None:
    async with (
        Site(reply(body={"id": 1})) as second,
        Site(moved_to(f"{second.url}/x")) as first,
        Upstream(first.url, Dialect({"X-Key": "k"}), JumpClock(), rate=50) as upstream,
    ):
        with pytest.raises(UnreadableAnswer, match="302"):
            await upstream.get("/a")
    assert second.asked == []


async def test_a_result_is_read_with_the_key_in_the_query() -> None:
    async with Site(reply(body={})) as site, Fetcher() as fetcher:
        own = ProviderOrigin(URL(site.url), query={"key": "k"})
        async with fetcher.open(f"{site.url}/file?part=a%2Fb", own=own):
            pass
    assert site.asked[0].rel_url.raw_query_string == "part=a%2Fb&key=k"


async def test_a_name_of_a_private_address_is_not_connected_to() -> None:
    async with Site(reply(body={"id": 1})) as site:
        url = site.url.replace("127.0.0.1", "localhost")
        async with Upstream(url, Dialect({"X-Key": "k"}), JumpClock(), rate=50, public=True) as upstream:
            with pytest.raises(Transient, match="its name cannot be looked up"):
                await upstream.get("/a")
            with pytest.raises(NotTaken) as refused:
                await upstream.submit(Request("/a", json={}))
    assert isinstance(refused.value.error, errors.UpstreamUnreachable)
    assert site.asked == []
