"""pollcast.js and the playground behind proxies, and in pages that browsers restrict."""

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, ConsoleMessage, Frame, Page, Request, Route, expect
from yarl import URL

from tests.browser.conftest import Open, PacedClock
from tests.support.deployment import Deployment
from tests.support.edge import edge
from tests.support.fronts import nginx
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORDER = """async ([url, key, model]) => {
  const { connect } = await import(url + "/pollcast.js");
  window.pollcast = connect({ key });
  window.waited = [];
  const onWaiting = ({ status, code }) => waited.push([status, code]);
  const failed = ({ name, message, status, code }) => ({ name, message, status, code });
  return await pollcast.generate({ model, prompt: "Hello" }, { onWaiting }).catch(failed);
}"""


async def ordered(page: Page | Frame, url: str, key: str, model: str = "suno") -> dict[str, Any]:
    """Order in a page that loads pollcast.js from `url`, and return the result."""
    done: dict[str, Any] = await page.evaluate(ORDER, [url, key, model])
    return done


@pytest_asyncio.fixture(loop_scope="session")
async def hasten(context: BrowserContext) -> None:
    """Shorten the retry delays of the page's scripts from seconds to milliseconds."""

    async def fast(route: Route) -> None:
        if route.request.method != "GET":
            await route.continue_()
            return
        answer = await route.fetch()
        text = (await answer.text()).replace("[1_000, 30_000]", "[10, 30]")
        await route.fulfill(response=answer, body=re.sub(r"RETRY_DELAY = \d_000", "RETRY_DELAY = 20", text))

    await context.route(re.compile(r"/(pollcast|playground)\.js$"), fast)


async def jobs(deployment: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await deployment.http.get("/api/jobs")).json()["jobs"]
    return found


# --- error statuses of proxies ---


PASSING = [200, 401, 403, 404, 408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 530, 599]


@pytest.mark.usefixtures("hasten")
async def test_no_page_of_an_edge_ends_a_paid_order(
    deployment: Deployment, open_page: Open, elsewhere: str, complaints: list[str]
) -> None:
    async with edge(deployment) as front:
        paths = ["/api/jobs", "/api/links", "/api/events"]
        front.statuses = {path: list(PASSING) for path in paths}
        front.lost = {"/api/jobs"}
        page = await open_page(elsewhere)
        done = await ordered(page, front.url, deployment.key)
        await page.close()
    assert done["status"] == "Completed"
    assert [job["id"] for job in await jobs(deployment)] == [done["job"]]
    assert sorted(front.answered) == sorted((path, status) for path in paths for status in PASSING)
    complaints.clear()


@pytest.mark.usefixtures("hasten")
async def test_a_job_s_own_stream_and_its_link_outlast_an_edge(
    deployment: Deployment,
    open_page: Open,
    elsewhere: str,
    complaints: list[str],
) -> None:
    job = (await deployment.submit("gpt-5.4-mini", prompt="Hello"))["id"]
    async with edge(deployment) as front:
        front.statuses = {path: [404, 520] for path in ("/api/links", f"/api/jobs/{job}/events", "/api/models")}
        page = await open_page(elsewhere)
        done = await page.evaluate(
            'async ([url, key, job]) => (await import(url + "/pollcast.js")).connect({ key }).watch(job)',
            [front.url, deployment.key, job],
        )
        await page.close()
    assert done["status"] == "Completed"
    complaints.clear()


async def test_a_request_that_an_edge_finds_too_large_is_refused_for_good(
    deployment: Deployment, open_page: Open, elsewhere: str, complaints: list[str]
) -> None:
    async with edge(deployment) as front:
        front.statuses = {"/api/jobs": [413]}
        page = await open_page(elsewhere)
        refused = await ordered(page, front.url, deployment.key)
        await page.close()
    assert (refused["name"], refused["status"], refused["code"]) == ("PollcastError", 413, "")
    assert await jobs(deployment) == []
    complaints.clear()


async def test_a_call_that_an_edge_answers_rejects_with_status_and_no_code(
    deployment: Deployment, open_page: Open, elsewhere: str, complaints: list[str]
) -> None:
    async with edge(deployment) as front:
        front.statuses = {"/api/account": [520, 200], "/api/assets": [524], "/api/jobs/job_x/cancel": [403]}
        page = await open_page(elsewhere)
        refused = await page.evaluate(
            """async ([url, key]) => {
              const pollcast = (await import(url + "/pollcast.js")).connect({ key });
              const failed = ({ name, status, code }) => [name, status, code];
              const calls = [
                () => pollcast.request("/api/account"), () => pollcast.request("/api/account"),
                () => pollcast.upload(new Blob(["x"])), () => pollcast.cancel("job_x"),
              ];
              const refused = [];
              for (const call of calls) refused.push(await call().catch(failed));
              return refused;
            }""",
            [front.url, deployment.key],
        )
        await page.close()
    assert refused == [["PollcastError", status, ""] for status in (520, 200, 524, 403)]
    complaints.clear()


async def entered(page: Page, deployment: Deployment) -> None:
    await page.get_by_label("API key").fill(deployment.key)
    await page.get_by_role("button", name="Open the playground").click()
    await expect(page.locator("#balance")).to_be_visible()


@pytest.mark.parametrize("status", [401, 520])
@pytest.mark.usefixtures("hasten")
async def test_the_playground_keeps_its_user_when_an_edge_answers(
    deployment: Deployment, open_page: Open, complaints: list[str], status: int
) -> None:
    async with edge(deployment) as front:
        front.statuses = {"/api/links": [status], "/api/events": [status]}
        page = await open_page(f"{front.url}/")
        await entered(page, deployment)
        front.statuses |= {"/api/jobs": [status] * 2}
        await page.get_by_label("Prompt").first.fill("Hello")
        await page.get_by_role("button", name="Generate").click()
        await expect(page.locator("#stage .pill")).to_have_text("Completed")
        front.statuses |= {"/api/account": [status], "/api/models": [status]}
        await page.reload()
        await expect(page.locator("#balance")).to_be_visible()  # without help, after the proxy's errors
        assert ("/api/account", status) in front.answered
        await page.close()
    assert len(await jobs(deployment)) == 1
    complaints.clear()


# --- addresses ---


@pytest.mark.parametrize("prefix", ["/api", "/tools/api/v2", "/api/events", "/pollcast"])
async def test_a_public_path_may_hold_the_server_s_own_words(
    tmp_path: Path, open_page: Open, elsewhere: str, asked: list[Request], prefix: str
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}{prefix}"
    async with Deployment(
        tmp_path, clock=PacedClock(30), settings={"cors_origins": ["*"], "public_url": url}
    ) as deployment:
        block = f"server {{ listen 127.0.0.1:{port}; location {prefix}/ {{ proxy_pass {deployment.origin}/; }} }}"
        with nginx(tmp_path / "nginx", block):
            page = await open_page(elsewhere)
            for model in ("gaga-1", "gpt-5.4-mini"):
                assert (await ordered(page, url, deployment.key, model))["status"] == "Completed"
            job, _ = await jobs(deployment)
            watched = await page.evaluate("(link) => pollcast.watch(link)", job["links"]["events"])
            assert watched["job"] == job["id"]
            await page.close()
    paths = {URL(request.url).path for request in asked if request.url.startswith(url)}
    assert {path.removeprefix(prefix).split("/")[1] for path in paths} == {"pollcast.js", "api"}
    assert not [path for path in paths if "/api/api/" in path.removeprefix(prefix)]


async def test_links_to_a_host_called_api_are_opened_at_the_given_address(
    tmp_path: Path, open_page: Open, elsewhere: str
) -> None:
    settings = {"cors_origins": ["*"], "public_url": "http://api/api"}
    async with Deployment(tmp_path, clock=PacedClock(30), settings=settings) as deployment:
        page = await open_page(elsewhere)
        assert (await ordered(page, deployment.origin, deployment.key))["status"] == "Completed"
        await page.close()


# --- restricted pages ---


async def test_an_order_completes_in_a_sandboxed_frame(deployment: Deployment, open_page: Open, elsewhere: str) -> None:
    page = await open_page(elsewhere)
    await page.set_content('<iframe sandbox="allow-scripts" srcdoc="<title>Framed</title>"></iframe>')
    frame = page.frames[1]
    assert await frame.evaluate("origin") == "null"
    refused = "navigator.locks.request('x', () => {}).catch(({ name }) => name)"
    assert await frame.evaluate(refused) == "SecurityError"
    for model in ("suno", "gpt-5.4-mini"):
        assert (await ordered(frame, deployment.origin, deployment.key, model))["status"] == "Completed"
    assert len(await jobs(deployment)) == 2


REFUSE = "() => { throw new DOMException('The page may not.', 'SecurityError'); }"


@pytest.mark.parametrize(
    "without",
    [
        "Object.defineProperty(navigator, 'locks', { value: undefined })",
        f"Object.defineProperty(navigator, 'locks', {{ get: {REFUSE} }})",
        f"if (isSecureContext) LockManager.prototype.request = {REFUSE}",
        f"if (isSecureContext) LockManager.prototype.request = async {REFUSE}",
        "delete window.BroadcastChannel",
        f"window.BroadcastChannel = function () {{ ({REFUSE})(); }}",
        f"Object.defineProperty(window, 'sessionStorage', {{ get: {REFUSE} }})",
        f"Storage.prototype.setItem = Storage.prototype.getItem = {REFUSE}",
        "delete Crypto.prototype.randomUUID",
        "Object.defineProperty(window, 'crypto', { value: undefined })",
        f"Object.defineProperty(window, 'localStorage', {{ get: {REFUSE} }}); delete window.indexedDB",
    ],
)
async def test_a_feature_that_a_browser_refuses_is_not_needed(
    deployment: Deployment, context: BrowserContext, open_page: Open, elsewhere: str, without: str
) -> None:
    await context.add_init_script(without)
    pages = [await open_page(elsewhere) for _ in range(2)]
    done = [await ordered(page, deployment.origin, deployment.key) for page in pages]
    assert [final["status"] for final in done] == ["Completed"] * 2
    assert len(await jobs(deployment)) == 2


async def test_the_playground_works_where_nothing_can_be_stored(
    deployment: Deployment, context: BrowserContext, open_page: Open
) -> None:
    await context.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {{ get: {REFUSE} }})")
    page = await open_page(f"{deployment.origin}/")
    await entered(page, deployment)
    await page.get_by_label("Prompt").first.fill("Hello")
    await page.get_by_role("button", name="Generate").click()
    await expect(page.locator("#stage .pill")).to_have_text("Completed")


# --- CORS ---


@pytest.fixture
def warnings(context: BrowserContext) -> list[str]:
    heard: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "warning":
            heard.append(message.text)

    context.on("console", hear)
    return heard


@pytest.mark.usefixtures("hasten")
async def test_a_refused_origin_is_warned_of_once_with_the_setting(
    deployment: Deployment,
    open_page: Open,
    elsewhere: str,
    warnings: list[str],
    complaints: list[str],
) -> None:
    deployment.settings["cors_origins"] = ["https://app.example.com"]
    await deployment.restart()
    page = await open_page(elsewhere)
    waits = await page.evaluate(
        """async ([url, key]) => {
          const pollcast = (await import(url + "/pollcast.js")).connect({ key });
          const left = new AbortController();
          let waits = 0;
          const onWaiting = () => ++waits === 5 && left.abort();
          const order = { model: "suno", prompt: "A song" };
          await pollcast.generate(order, { onWaiting, signal: left.signal }).catch(() => {});
          await pollcast.request("/api/account").catch(() => {});
          return waits;
        }""",
        [deployment.origin, deployment.key],
    )
    assert waits == 5
    await page.close()
    (warning,) = warnings
    assert f"add {elsewhere} to POLLCAST_CORS_ORIGINS" in warning
    complaints.clear()


@pytest.mark.usefixtures("hasten")
async def test_an_unreachable_server_is_not_reported_as_cors(
    deployment: Deployment,
    open_page: Open,
    elsewhere: str,
    warnings: list[str],
    complaints: list[str],
) -> None:
    page = await open_page(elsewhere)
    await page.evaluate(
        """async ([url, gone]) => {
          const pollcast = (await import(url + "/pollcast.js")).connect({ url: gone, key: "pollcast_x" });
          for (let n = 0; n < 3; n++) await pollcast.request("/api/account").catch(() => {});
        }""",
        [deployment.origin, f"http://127.0.0.1:{free_port()}"],
    )
    await page.close()
    assert warnings == []
    complaints.clear()
