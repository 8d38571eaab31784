"""Recovery of an order whose answer was lost, at a provider that finds a job by our own id of the order."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic_settings import SettingsConfigDict

from proxy.core.job import Kind, Order, Output, Role, Status, Ticket
from proxy.core.settings import ProviderSettings
from proxy.providers.base import Inputs, Model, NewOutput, Provider, Update, bearer
from proxy.providers.fields import Fields
from proxy.providers.registry import Registry
from proxy.runner.services import RunnerTimes
from proxy.upstream.answers import LastAnswers, UnreadableAnswer
from proxy.upstream.classify import Dialect
from proxy.upstream.requests import Request
from tests.runner.test_cancel import cancel
from tests.runner.test_runner import final_of
from tests.support.deployment import Deployment
from tests.support.literal import Asked, Literal, Reply, data, page, said

SUBMIT, FIND, STATUS = ("POST", "/jobs"), ("GET", "/find"), ("GET", "/jobs/1")
LOST = data(b'{"id": ', "application/json")
NOTHING, FOUND = said({"id": None}), said({"id": "1"})
DONE = said({"status": "done", "url": "https://files.example/1.mp4"})


class FinderSettings(ProviderSettings):
    """`FINDER_*`."""

    model_config = SettingsConfigDict(env_prefix="FINDER_")
    base_url: str = "https://finder.example"


class FinderFields(Fields):
    """Fields of finder-1."""

    prompt: str


class Finder(Provider):
    """A provider that knows our id of an order."""

    name = "Finder"
    models = (Model("finder-1", Kind.VIDEO, 20, FinderFields, frozenset({"prompt", "key"}), (10, 20), can_lookup=True),)
    settings_type = FinderSettings

    def declare_dialect(self) -> Dialect:
        return Dialect(bearer(self.settings))

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        del inputs
        return Request("/jobs", json=dict(order.fields))

    async def submit(self, request: Request) -> Ticket:
        sent = replace(request, json={**request.json, "key": request.key})
        answer = await self.upstream.submit(sent)
        try:
            return {"id": answer.object()["id"]}
        except UnreadableAnswer:
            raise self.dialect.missing_ticket(answer, "is no JSON object") from None

    async def lookup(self, request: Request) -> Ticket | None:
        answer = await self.upstream.get("/find", {"key": request.key})
        found = answer.object()["id"]
        return None if found is None else {"id": found}

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        document: Mapping[str, Any] = (
            await self.upstream.get(f"/jobs/{ticket['id']}", last_answers=last_answers)
        ).object()
        if document["status"] != "done":
            return Update(detail=document["status"])
        made = NewOutput(Output(Role.VIDEO, "video/mp4", url=document["url"]))
        return Update(status=Status.COMPLETED, outputs=(made,))

    async def cancel(self, ticket: Ticket) -> None:
        await self.upstream.delete(f"/jobs/{ticket['id']}")


@pytest.fixture
async def upstream() -> AsyncIterator[Literal]:
    async with Literal() as literal:
        literal.on(*SUBMIT, LOST)
        literal.on(*STATUS, DONE)
        yield literal


@pytest.fixture
def unstarted(unstarted: Deployment, upstream: Literal) -> Deployment:
    unstarted.registry = Registry((Finder,))
    unstarted.providers["Finder"] = {"base_url": upstream.origin, "api_key": "key"}
    return unstarted


async def order(deployment: Deployment) -> dict[str, Any]:
    return final_of(await deployment.generate("finder-1", prompt="Hello"))


async def asked(upstream: Literal, place: tuple[str, str]) -> list[Asked]:
    """Wait for a request, and return those that came."""
    while not upstream.asked(*place):
        await asyncio.sleep(0.001)
    return upstream.asked(*place)


async def test_a_lost_order_is_found_at_once(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*FIND, FOUND)
    final = await order(deployment)
    assert final["status"] == "Completed", final
    assert upstream.once(*FIND).query == {"key": final["job"]}
    assert upstream.once(*SUBMIT).json == {"prompt": "Hello", "key": final["job"]}
    assert await deployment.balance() == 980


@pytest.mark.parametrize("first", [NOTHING, page(502), page(200), said({"message": "Slow down"}, 429)])
async def test_a_lost_order_is_found_within_five_minutes(
    deployment: Deployment, upstream: Literal, first: Reply
) -> None:
    upstream.on(*FIND, *[first] * 8, FOUND)
    began = deployment.clock.now()
    final = await order(deployment)
    assert final["status"] == "Completed", final
    assert 60 < deployment.clock.now() - began < 300
    assert len(upstream.asked(*SUBMIT)) == 1


async def test_an_order_that_is_never_found_is_an_unknown_outcome(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*FIND, NOTHING)
    began = deployment.clock.now()
    final = await order(deployment)
    assert (final["code"], final["refunded"]) == ("outcome_unknown", 20)
    assert 300 <= deployment.clock.now() - began < 340
    assert {one.query["key"] for one in upstream.asked(*FIND)} == {final["job"]}
    assert len(upstream.asked(*SUBMIT)) == 1
    assert await deployment.balance() == 1000


async def test_a_cancel_during_the_lookup_reaches_the_provider(unstarted: Deployment, upstream: Literal) -> None:
    unstarted.runner_times = RunnerTimes(lookup_limit=80_000)  # the clock jumps while the client cancels
    unstarted.providers["Finder"]["deadline"] = 80_000
    upstream.on(*FIND, NOTHING)
    upstream.on("DELETE", "/jobs/1", said({}))
    async with unstarted as deployment:
        job = await deployment.submit("finder-1", prompt="Hello")
        await asked(upstream, FIND)
        await cancel(deployment, job["id"])
        upstream.on(*FIND, FOUND)
        ended = await deployment.ended(job["id"])
        assert (ended["status"], ended["refunded"]) == ("Canceled", 0)
    upstream.once("DELETE", "/jobs/1")
    assert not upstream.asked(*STATUS)
    assert len(upstream.asked(*SUBMIT)) == 1


async def test_an_order_cut_off_by_a_stop_is_looked_up_after_it(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*SUBMIT, Reply((b'{"id": ',), streamed=True, held=True))
    job = await deployment.submit("finder-1", prompt="Hello")
    await asked(upstream, SUBMIT)
    upstream.on(*FIND, NOTHING, FOUND)
    await deployment.restart()
    ended = await deployment.ended(job["id"])
    assert ended["status"] == "Completed", ended
    assert [one.query["key"] for one in upstream.asked(*FIND)] == [job["id"]] * 2
    assert len(upstream.asked(*SUBMIT)) == 1


async def test_a_lookup_cut_off_by_a_stop_continues_after_it(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*FIND, Reply((b"{",), streamed=True, held=True))
    job = await deployment.submit("finder-1", prompt="Hello")
    await asked(upstream, FIND)
    upstream.on(*FIND, FOUND)
    await deployment.restart()
    assert (await deployment.ended(job["id"]))["status"] == "Completed"
    assert len(upstream.asked(*SUBMIT)) == 1


async def test_an_order_is_not_looked_up_with_another_key(deployment: Deployment, upstream: Literal) -> None:
    upstream.on(*SUBMIT, Reply((b'{"id": ',), streamed=True, held=True))
    upstream.on(*FIND, FOUND)
    job = await deployment.submit("finder-1", prompt="Hello")
    await asked(upstream, SUBMIT)
    deployment.providers["Finder"] = {"base_url": upstream.origin, "api_key": "another"}
    await deployment.restart()
    ended = await deployment.ended(job["id"])
    assert (ended["code"], ended["refunded"]) == ("outcome_unknown", 20)
    assert not upstream.asked(*FIND)
