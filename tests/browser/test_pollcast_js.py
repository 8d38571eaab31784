"""pollcast.js, loaded from the server by a page of another origin."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Error, Page, Request, Route
from yarl import URL

from proxy.serving.protocol import Http
from tests.browser.conftest import Open, PacedClock, lose_first_answer
from tests.support.deployment import Deployment

Streams = Callable[[], list[str]]

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONNECT = """async ([url, key]) => {
  Object.assign(window, await import(url + "/pollcast.js"));
  window.pollcast = connect({ key, onConnection: (up) => (window.states ??= []).push(up) });
  window.seen = [];
  window.onEvent = (event) => seen.push(event);
  window.failed = ({ name, message, code, status, errors, event }) => ({ name, message, code, status, errors, event });
}"""


class Caller:
    """A page with a client, and the streams that its visitor has requested."""

    def __init__(self, page: Page, deployment: Deployment) -> None:
        self.page = page
        self._world = deployment

    async def connect(self, key: str | None = None) -> "Caller":
        await self.page.evaluate(CONNECT, [self._world.origin, key or self._world.key])
        return self

    async def run(self, script: str, argument: object = None) -> Any:
        """Run the body of an async function in the page, and return its result. `given` is the argument."""
        return await self.page.evaluate(f"async (given) => {{ {script} }}", argument)

    async def until(self, condition: str, argument: object = None) -> None:
        await self.page.wait_for_function(f"(given) => {condition}", arg=argument)

    async def seen(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = await self.page.evaluate("seen")
        return events


@pytest_asyncio.fixture(loop_scope="session")
async def caller(deployment: Deployment, open_page: Open, elsewhere: str) -> Caller:
    return await Caller(await open_page(elsewhere), deployment).connect()


@pytest.fixture
def streams(asked: list[Request]) -> Callable[[], list[str]]:
    """Return the paths of the requested streams, one for each request."""
    return lambda: [URL(request.url).path for request in asked if request.method == "GET" and "/events?" in request.url]


def numbers(events: list[dict[str, Any]], job: str) -> list[int]:
    return [event["n"] for event in events if event["job"] == job]


def break_off(deployment: Deployment, path: str) -> None:
    """Abort the connections that serve a path. A connection without a request has no scope yet."""
    connections = [connection for connection in deployment.connections if isinstance(connection, Http)]
    serving = [each for each in connections if each.scope and each.scope["path"] == path]
    assert serving
    for connection in serving:
        connection.transport.abort()


# --- one order ---


async def test_generate_gives_every_event_in_order_and_then_the_completed_one(
    deployment: Deployment, caller: Caller
) -> None:
    done = await caller.run('return await pollcast.generate({ model: "gaga-1", prompt: "Hello" }, { onEvent })')
    events = await caller.seen()
    assert done["url"]
    assert events[-1] == done
    assert numbers(events, done["job"]) == list(range(1, done["n"] + 1))
    assert (await deployment.http.get(f"/api/jobs/{done['job']}")).json()["event"] == done["n"]


async def test_generate_is_an_iterable_of_all_events_too(caller: Caller) -> None:
    events = await caller.run("""
      const events = [];
      for await (const event of pollcast.generate({ model: "suno", prompt: "A song" })) events.push(event);
      return events;
    """)
    assert events[0]["status"] == "Processing started"
    assert events[-1]["status"] == "Completed"
    assert numbers(events, events[0]["job"]) == list(range(1, len(events) + 1))


async def test_every_order_carries_an_idempotency_key_of_its_own(caller: Caller, asked: list[Request]) -> None:
    await caller.run('await Promise.all([1, 2].map(() => pollcast.generate({ model: "suno", prompt: "A song" })))')
    posted = [request for request in asked if request.method == "POST" and request.url.endswith("/api/jobs")]
    assert len({request.headers["idempotency-key"] for request in posted}) == len(posted) == 2


async def test_a_refused_order_rejects_and_names_the_field(caller: Caller, complaints: list[str]) -> None:
    refused = await caller.run('return pollcast.generate({ model: "gaga-1", prompt: 7 }).catch(failed)')
    assert (refused["name"], refused["status"], refused["code"]) == ("PollcastError", 422, "invalid_request")
    assert refused["errors"][0]["field"] == "prompt"
    assert [line for line in complaints if "422" not in line] == []
    complaints.clear()


async def test_a_failed_job_rejects_its_promise_and_yields_its_final_event(caller: Caller) -> None:
    failed, statuses = await caller.run("""
      const watch = pollcast.generate({ model: "gaga-1", prompt: "[fail]" });
      const statuses = [];
      for await (const { status } of watch) statuses.push(status);
      return [await watch.catch(failed), statuses];
    """)
    assert (failed["code"], failed["status"], failed["event"]["refunded"]) == ("upstream_failed", 0, 20)
    assert statuses[-1] == "Error"


async def test_a_text_arrives_piece_by_piece(caller: Caller) -> None:
    done = await caller.run('return await pollcast.generate({ model: "gpt-5.4-mini", prompt: "Hello" }, { onEvent })')
    pieces = [event["delta"] for event in await caller.seen() if "delta" in event]
    assert len(pieces) > 1
    assert "".join(pieces) == done["text"]


async def test_a_canceled_job_rejects_as_canceled(deployment: Deployment, caller: Caller) -> None:
    canceled = await caller.run("""
      const watch = pollcast.generate({ model: "gaga-1", prompt: "[stuck]" }, { onEvent });
      for await (const { status, detail } of watch) if (detail) await pollcast.cancel(watch.job);
      return watch.catch(failed);
    """)
    assert canceled["code"] == "canceled"
    assert (await deployment.http.get(f"/api/jobs/{canceled['event']['job']}")).json()["status"] == "Canceled"


async def test_an_aborted_signal_ends_the_watching_and_not_the_job(deployment: Deployment, caller: Caller) -> None:
    name, job = await caller.run("""
      const left = new AbortController();
      const options = { onEvent: () => left.abort(), signal: left.signal };
      const watch = pollcast.generate({ model: "gaga-1", prompt: "[slow]" }, options);
      return [await watch.catch((error) => error.name), watch.job];
    """)
    assert name == "AbortError"
    assert (await deployment.ended(job))["status"] == "Completed"


async def test_an_uploaded_file_is_an_asset_for_an_order(caller: Caller) -> None:
    done = await caller.run(
        """
      const { id } = await pollcast.upload(new Blob([new Uint8Array(given)]));
      return await pollcast.generate({ model: "gaga-1", prompt: "Hello", image: id });
    """,
        list(Deployment.media("image")),
    )
    assert done["status"] == "Completed"


async def test_a_wrong_key_rejects_as_unauthorized(
    deployment: Deployment, caller: Caller, complaints: list[str]
) -> None:
    await caller.connect("pollcast_wrong")
    for call in ('generate({ model: "suno", prompt: "A song" })', "watchAll()", 'watch("job_x")'):
        refused = await caller.run(f"return pollcast.{call}.catch(failed)")
        assert (refused["status"], refused["code"]) == (401, "unauthorized")
    assert await deployment.balance() == 1000
    complaints.clear()


# --- errors of the caller ---


@pytest.mark.parametrize(
    "call",
    [
        "connect({ url: given, key: 'pollcast_\u043a' }).generate(order)",
        "connect({ url: given, key: 'pollcast_\u043a' }).watchAll()",
        "connect({ url: 'htp://x', key: 'pollcast_x' }).generate(order)",
        "connect({ url: 'https://x:99999', key: 'pollcast_x' }).watch('job_x')",
        "pollcast.generate(order, { idempotencyKey: '\u0437\u0430\u043a\u0430\u0437-1' })",
        "pollcast.generate({ ...order, seed: 5n })",
        "pollcast.generate((order.extra = order))",
        "pollcast.request('/api/links', { body: { ttl: 5n } })",
        "connect({ link: () => undefined }).watchAll()",
        "connect({ link: () => 'htp://x' }).watch('job_x')",
        "pollcast.watch('https://example.com/foo')",
    ],
)
async def test_an_order_that_cannot_be_sent_rejects_without_a_retry(
    caller: Caller, call: str, deployment: Deployment
) -> None:
    refused, states = await caller.run(
        f"""
      const order = {{ model: "gaga-1", prompt: "Hello" }};
      return [await {call}.catch(failed), window.states];
    """,
        deployment.origin,
    )
    assert (refused["name"], refused["code"], refused["status"]) == ("PollcastError", "bad_request", 0)
    assert re.match(r"This cannot be sent: |link\(\) gave no Link|.* is no Link to a job's events", refused["message"])
    assert states is None


async def test_an_error_thrown_by_link_rejects_unchanged(caller: Caller) -> None:
    assert await caller.run("""
      const mistake = new TypeError("undefined is not a function");
      const visitor = connect({ link: () => { throw mistake; } });
      return (await visitor.watch("job_x").catch((error) => error)) === mistake;
    """)


async def test_link_may_fail_to_reach_its_backend_when_a_link_has_expired(
    deployment: Deployment, caller: Caller, complaints: list[str]
) -> None:
    job = await deployment.submit("gaga-1", prompt="Hello")
    done, asked = await caller.run(
        """
      let asked = 0;
      const link = async () => {
        asked++;
        if (asked === 1) return given + "x";
        if (asked === 2) await fetch("http://127.0.0.1:1/");
        return given;
      };
      return [await connect({ link }).watch("job_x"), asked];
    """,
        job["links"]["events"],
    )
    assert (done["status"], asked) == ("Completed", 3)
    complaints.clear()


# --- one connection ---


async def test_thirty_orders_of_a_page_need_one_connection(caller: Caller, streams: Streams) -> None:
    done = await caller.run("""
      await new Promise((onReady) => pollcast.watchAll({ onReady }));
      const order = { model: "gaga-1", prompt: "Hello" };
      return await Promise.all(Array.from({ length: 30 }, () => pollcast.generate(order, { onEvent })));
    """)
    events = await caller.seen()
    for final in done:
        assert numbers(events, final["job"]) == list(range(1, final["n"] + 1))
    assert streams() == ["/api/events"]


async def test_orders_before_the_shared_connection_opens_miss_no_event(caller: Caller, streams: Streams) -> None:
    done = await caller.run("""
      const order = { model: "gaga-1", prompt: "Hello" };
      return await Promise.all(Array.from({ length: 5 }, () => pollcast.generate(order, { onEvent })));
    """)
    events = await caller.seen()
    for final in done:
        assert numbers(events, final["job"]) == list(range(1, final["n"] + 1))
    assert streams().count("/api/events") == 1


async def two_tabs(deployment: Deployment, caller: Caller, page: Page) -> Caller:
    """Open a second tab. The caller's tab reads for both."""
    other = await Caller(page, deployment).connect()
    for tab in (caller, other):
        await tab.run("await new Promise((onReady) => pollcast.watchAll({ onEvent, onReady }))")
    return other


async def test_two_tabs_share_one_connection_and_both_see_everything(
    deployment: Deployment, caller: Caller, streams: Streams, open_page: Open, elsewhere: str
) -> None:
    other = await two_tabs(deployment, caller, await open_page(elsewhere))
    jobs = [(await deployment.submit("gaga-1", prompt="Hello"))["id"] for _ in range(3)]
    for tab in (caller, other):
        await tab.until('seen.filter(({ status }) => status === "Completed").length === 3')
        for job in jobs:
            assert numbers(await tab.seen(), job) == list(range(1, len(numbers(await tab.seen(), job)) + 1))
    assert streams() == ["/api/events"]


async def test_a_later_tab_is_notified_of_running_jobs(
    deployment: Deployment, caller: Caller, streams: Streams, open_page: Open, elsewhere: str
) -> None:
    await caller.run("await new Promise((onReady) => pollcast.watchAll({ onReady }))")
    job = (await deployment.submit("gaga-1", prompt="[stuck]"))["id"]
    other = await Caller(await open_page(elsewhere), deployment).connect()
    await other.run("await new Promise((onReady) => pollcast.watchAll({ onEvent, onReady }))")
    await other.until("seen.some(({ job }) => job === given)", job)
    assert streams() == ["/api/events"]


async def test_the_next_tab_continues_without_a_gap_when_the_reading_one_closes(
    deployment: Deployment, caller: Caller, streams: Streams, open_page: Open, elsewhere: str
) -> None:
    clock: PacedClock = deployment.clock
    other = await two_tabs(deployment, caller, await open_page(elsewhere))
    clock.run(0)
    job = (await deployment.submit("gaga-1", prompt="Hello"))["id"]
    await clock.step_until(other.page, "seen.length > 1")
    assert (await other.seen())[-1]["status"] == "Processing"
    await caller.page.close()
    clock.run(30)
    await other.until('seen.at(-1).status === "Completed"')
    events = numbers(await other.seen(), job)
    assert events == list(range(1, len(events) + 1))
    assert streams() == ["/api/events", "/api/events"]


async def test_another_tab_leads_after_the_leading_tab_is_left_and_restored(
    deployment: Deployment, caller: Caller, streams: Streams, open_page: Open, elsewhere: str
) -> None:
    other = await two_tabs(deployment, caller, await open_page(elsewhere))
    # The event of a page that enters the back/forward cache. Playwright's Chromium has none.
    await caller.run('dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }))')
    left = (await deployment.generate("gaga-1", prompt="Hello"))[-1]
    await other.until('seen.at(-1)?.status === "Completed"')
    assert numbers(await other.seen(), left["job"]) == list(range(1, left["n"] + 1))
    await caller.run('dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }))')
    back = (await deployment.generate("gaga-1", prompt="Hello"))[-1]
    await caller.until("seen.at(-1)?.job === given && seen.at(-1).status === 'Completed'", back["job"])
    assert numbers(await caller.seen(), back["job"]) == list(range(1, back["n"] + 1))
    assert streams() == ["/api/events", "/api/events"]


async def test_a_silent_leading_tab_is_replaced_and_then_follows_the_new_one(
    deployment: Deployment, context: BrowserContext, open_page: Open, elsewhere: str
) -> None:
    async def impatient(route: Route) -> None:
        answer = await route.fetch()
        body = (await answer.text()).replace("[5_000, 15_000]", "[100, 300]")
        await route.fulfill(response=answer, body=body)

    await context.route("**/pollcast.js", impatient)
    caller = await Caller(await open_page(elsewhere), deployment).connect()
    other = await two_tabs(deployment, caller, await open_page(elsewhere))
    debugger = await context.new_cdp_session(caller.page)  # Blocks the page like a dialog.
    await debugger.send("Debugger.enable")
    await debugger.send("Debugger.pause")
    silent = (await deployment.generate("gaga-1", prompt="Hello"))[-1]
    await other.until('seen.at(-1)?.status === "Completed"')
    assert numbers(await other.seen(), silent["job"]) == list(range(1, silent["n"] + 1))
    await debugger.send("Debugger.disable")
    later = (await deployment.generate("gaga-1", prompt="Hello"))[-1]
    for tab in (caller, other):
        await tab.until("seen.at(-1)?.job === given && seen.at(-1).status === 'Completed'", later["job"])
        assert numbers(await tab.seen(), later["job"]) == list(range(1, later["n"] + 1))


async def test_an_html_page_instead_of_a_stream_is_not_requested_repeatedly(
    deployment: Deployment, open_page: Open, elsewhere: str
) -> None:
    page = await open_page(elsewhere)
    failed = await page.evaluate(
        """async (url) => {
          const { connect } = await import(url + "/pollcast.js");
          const failed = ({ name, message }) => ({ name, message });
          return connect({ url, link: () => location.href }).watchAll().then(() => {}, failed);
        }""",
        deployment.origin,
    )
    assert failed["name"] == "PollcastError"
    assert "no stream" in failed["message"]


async def test_watch_always_reads_a_job_from_its_first_event(deployment: Deployment, caller: Caller) -> None:
    running = (await deployment.submit("gaga-1", prompt="[slow]"))["id"]
    over = (await deployment.generate("suno", prompt="A song"))[0]["job"]
    for job in (running, over):
        done = await caller.run("return await pollcast.watch(given, { onEvent })", job)
        assert numbers(await caller.seen(), job) == list(range(1, done["n"] + 1))


async def test_leaving_a_loop_over_all_jobs_lets_the_connection_go(deployment: Deployment, caller: Caller) -> None:
    await deployment.submit("gaga-1", prompt="[stuck]")
    await caller.run("for await (const event of pollcast.watchAll()) break;")
    async with asyncio.timeout(5):
        while await caller.run("return (await navigator.locks.query()).held.length"):
            await asyncio.sleep(0.01)


# --- breaks ---


async def test_a_server_restart_loses_and_repeats_no_event(
    deployment: Deployment, caller: Caller, complaints: list[str]
) -> None:
    clock: PacedClock = deployment.clock
    clock.run(0)
    await caller.run("""
      await new Promise((onReady) => pollcast.watchAll({ onEvent, onReady }));
      window.generated = [];
      const options = { onEvent: (event) => generated.push(event) };
      window.watch = pollcast.generate({ model: "gaga-1", prompt: "Hello" }, options);
    """)
    await clock.step_until(caller.page, "seen.length > 1")
    assert (await caller.seen())[-1]["status"] == "Processing"
    await deployment.restart(same_port=True)
    await caller.until("states?.includes(false)")
    clock.run(30)
    done = await caller.run("return await watch")
    for events in (await caller.seen(), await caller.page.evaluate("generated")):
        assert numbers(events, done["job"]) == list(range(1, done["n"] + 1))
    assert await caller.page.evaluate("states.at(-1)") is True
    complaints.clear()  # Chromium logs that the stream broke.


async def test_an_order_whose_response_a_reload_lost_creates_only_one_job(
    deployment: Deployment, caller: Caller, context: BrowserContext
) -> None:
    sent = await lose_first_answer(context)
    await caller.run('pollcast.generate({ model: "suno", prompt: "A song" })')
    await sent.wait()
    await caller.page.reload()
    await caller.connect()
    done = await caller.run("return await Promise.all(pollcast.resume({ onEvent }))")
    assert [final["status"] for final in done] == ["Completed"]
    assert [job["id"] for job in (await deployment.http.get("/api/jobs")).json()["jobs"]] == [done[0]["job"]]
    assert await deployment.balance() == 990
    assert await caller.run("return pollcast.resume()") == []


async def test_after_a_reload_a_job_is_watched_from_its_last_event(deployment: Deployment, caller: Caller) -> None:
    clock: PacedClock = deployment.clock
    clock.run(0)
    await caller.run('window.watch = pollcast.generate({ model: "gaga-1", prompt: "Hello" }, { onEvent })')
    await clock.step_until(caller.page, "seen.length > 1")
    before = await caller.seen()
    assert before[-1]["status"] == "Processing"
    await caller.page.reload()
    await caller.connect()
    clock.run(30)
    done = await caller.run("const [watch] = pollcast.resume({ onEvent }); return await watch")
    events = before + await caller.seen()
    assert numbers(events, done["job"]) == list(range(1, done["n"] + 1))


async def test_the_state_stored_for_a_reload_omits_the_key(deployment: Deployment, caller: Caller) -> None:
    await caller.run('pollcast.generate({ model: "gaga-1", prompt: "[stuck]" }, { onEvent })')
    await caller.until("seen.length > 0")
    kept = await caller.page.evaluate("JSON.stringify([Object.entries(sessionStorage), Object.entries(localStorage)])")
    assert "[stuck]" in kept
    assert deployment.key not in kept


async def test_events_missed_before_a_reset_are_read_from_the_job_stream(
    deployment: Deployment, caller: Caller, context: BrowserContext, complaints: list[str]
) -> None:
    await caller.run("await new Promise((onReady) => pollcast.watchAll({ onEvent, onReady }))")
    missed = (await deployment.submit("gaga-1", prompt="[slow]"))["id"]
    await caller.until("seen.length > 1")
    await context.route("**/api/events?*", lambda route: route.abort())
    break_off(deployment, "/api/events")
    await deployment.ended(missed)
    gone = (await deployment.generate("suno", prompt="A song"))[0]["job"]
    await deployment.http.delete(f"/api/jobs/{gone}")  # Positions up to here are deleted.
    await context.unroute("**/api/events?*")
    await caller.until('seen.at(-1).status === "Completed"')
    events = await caller.seen()
    assert numbers(events, missed) == list(range(1, len(events) + 1))
    complaints.clear()


# --- Links ---


async def test_a_link_to_a_job_is_enough_to_watch_it(deployment: Deployment, caller: Caller) -> None:
    job = await deployment.submit("gaga-1", prompt="Hello")
    done = await caller.run("return await connect().watch(given, { onEvent })", job["links"]["events"])
    assert numbers(await caller.seen(), job["id"]) == list(range(1, done["n"] + 1))


async def test_a_refused_link_is_replaced_by_a_new_one(
    deployment: Deployment, caller: Caller, complaints: list[str]
) -> None:
    job = await deployment.submit("gaga-1", prompt="Hello")
    link = job["links"]["events"]
    done, asked = await caller.run(
        """
      const asked = [];
      const visitor = connect({ link: (path) => (asked.push(path), asked.length === 1 ? given[0] + "x" : given[0]) });
      return [await visitor.watch(given[1]), asked];
    """,
        [link, job["id"]],
    )
    assert done["status"] == "Completed"
    assert asked == [f"/api/jobs/{job['id']}/events"] * 2
    assert [line for line in complaints if "401" not in line] == []
    complaints.clear()


async def test_a_link_that_nothing_can_replace_rejects_when_it_is_refused(
    deployment: Deployment, caller: Caller, complaints: list[str]
) -> None:
    job = await deployment.submit("gaga-1", prompt="Hello")
    refused = await caller.run("return connect().watch(given + 'x').catch(failed)", job["links"]["events"])
    assert (refused["status"], refused["code"]) == (401, "unauthorized")
    complaints.clear()


async def test_the_account_s_stream_continues_when_its_link_expires(
    deployment: Deployment, caller: Caller, streams: Streams, complaints: list[str]
) -> None:
    clock: PacedClock = deployment.clock
    clock.run(1)
    await caller.run("""
      let seconds = 1;  // the first link's; with the later ones a slow page has time to connect
      const link = async (path) => {
        const { url } = await pollcast.link(path, seconds);
        seconds = 3600;
        return url;
      };
      await new Promise((onReady) => connect({ link }).watchAll({ onEvent, onReady }));
    """)
    async with asyncio.timeout(10):
        while len(streams()) < 2:
            await asyncio.sleep(0.01)
    clock.run(30)
    job = (await deployment.submit("gaga-1", prompt="Hello"))["id"]
    await caller.until('seen.at(-1)?.status === "Completed"')
    events = numbers(await caller.seen(), job)
    assert events == list(range(1, len(events) + 1))
    complaints.clear()


# --- the wire ---

STREAM = (
    "\ufeff: a comment\r\nretry: 250\r\n\r\ndata: one\r\nid: 1\r\n\r\nevent: ready\rdata:two\rdata\rdata:  lines\r\r"
    'id: 3\n\nid: bad\0\nretry: soon\nno field\ndata: {"a": "\u00e9\U0001f600"}\n\ndata: unfinished\nid: 9\n'
)
MESSAGES = [
    {"id": "1", "type": "message", "data": "one"},
    {"id": "1", "type": "ready", "data": "two\n\n lines"},
    {"id": "3", "type": "message", "data": '{"a": "\u00e9\U0001f600"}'},
]


async def test_a_stream_is_parsed_per_the_standard_wherever_it_is_split(caller: Caller) -> None:
    read = await caller.run(
        """
      const bytes = new Uint8Array(given);
      const results = [];
      for (let cut = 0; cut <= bytes.length; cut++) {
        const parts = [bytes.slice(0, cut), bytes.slice(cut, cut + 1), bytes.slice(cut + 1)];
        const body = new ReadableStream({
          start: (controller) => (parts.forEach((part) => controller.enqueue(part)), controller.close()),
        });
        const retries = [];
        const found = [];
        for await (const message of messages(body, (ms) => retries.push(ms))) found.push(message);
        results.push(JSON.stringify([found, retries]));
      }
      return [...new Set(results)];
    """,
        list(STREAM.encode()),
    )
    assert [orjson.loads(result) for result in read] == [[MESSAGES, [250]]]


async def test_the_module_loads_on_an_origin_that_may_not_call_the_api(
    deployment: Deployment, open_page: Open, elsewhere: str, complaints: list[str]
) -> None:
    deployment.settings["cors_origins"] = []
    await deployment.restart()
    page = await open_page(elsewhere)
    assert (
        await page.evaluate("async (url) => typeof (await import(url)).connect", f"{deployment.origin}/pollcast.js")
        == "function"
    )
    with pytest.raises(Error, match="Failed to fetch"):
        await page.evaluate("async (url) => (await fetch(url)).status", f"{deployment.origin}/api/ping")
    complaints.clear()
