"""The page at `/`, used like a person uses it: by its visible labels."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Locator, Page, Request, expect
from yarl import URL

from proxy.store import open_store
from tests.browser.conftest import Open, PacedClock, lose_first_answer
from tests.support.deployment import MEDIA, Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

Enter = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="session")
async def enter(deployment: Deployment, open_page: Open) -> Enter:
    """Open the page and enter a key."""

    async def enter_(key: str | None = None) -> Page:
        page = await open_page(f"{deployment.origin}/")
        await page.get_by_label("API key").fill(key or deployment.key)
        await page.get_by_role("button", name="Open the playground").click()
        return page

    return enter_


def stage(page: Page) -> Locator:
    return page.locator("#stage")


async def order(page: Page, prompt: str, model: str = "") -> None:
    if model:
        await page.get_by_label("Model").select_option(model)
    await page.get_by_label("Prompt").first.fill(prompt)
    await page.get_by_role("button", name="Generate").click()


async def eventually(element: Locator, condition: str) -> None:
    """Wait until a condition holds. The page's content security policy forbids Playwright's wait inside the page."""
    async with asyncio.timeout(10):
        while not await element.evaluate(condition):
            await asyncio.sleep(0.02)


async def completed(page: Page) -> None:
    await expect(stage(page).locator(".pill")).to_have_text("Completed")


# --- from key to result ---


async def test_from_a_key_and_an_uploaded_image_to_a_playing_video(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    await page.locator("input[type=file]").first.set_input_files(MEDIA / "image.png")
    await expect(page.get_by_label("Image", exact=True)).to_have_value(re.compile("^asset_"))
    await order(page, "Hello, World!")
    await completed(page)
    video = stage(page).locator("video")
    await video.evaluate("(video) => video.play()")
    await eventually(video, "(video) => video.currentTime > 0.1")
    (job,) = (await deployment.http.get("/api/jobs")).json()["jobs"]
    assert job["order"]["image"].startswith("asset_")
    await expect(page.locator("#balance")).to_have_text("web: 980 tokens")


async def test_a_dropped_file_is_uploaded(enter: Enter) -> None:
    page = await enter()
    await page.locator(".drop").first.evaluate(
        """(zone, bytes) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
          zone.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        list(Deployment.media("image")),
    )
    await expect(page.get_by_label("Image", exact=True)).to_have_value(re.compile("^asset_"))
    await expect(page.get_by_text("dropped.png, 8 KiB")).to_be_visible()


@pytest.mark.parametrize(("model", "result"), [("suno", "audio"), ("gpt-image-2", "img")])
async def test_audio_and_images_have_their_own_elements(enter: Enter, model: str, result: str) -> None:
    page = await enter()
    await order(page, "A song about the sea", model)
    await completed(page)
    await eventually(stage(page).locator(f"figure {result}"), "(e) => e.naturalWidth > 0 || e.readyState > 0")


async def test_a_text_grows_while_it_is_streamed(deployment: Deployment, enter: Enter) -> None:
    clock: PacedClock = deployment.clock
    clock.run(2)
    page = await enter()
    await order(page, "Hello", "gpt-5.4-mini")
    text = stage(page).locator(".text")
    await expect(text).to_be_visible()
    begun = await text.text_content()
    clock.run(30)
    await completed(page)
    whole = await text.text_content()
    assert begun
    assert whole
    assert whole.startswith(begun)


async def test_every_model_has_a_form_with_all_of_its_fields(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    for model in (await deployment.http.get("/api/models")).json()["models"]:
        await page.get_by_label("Model").select_option(model["id"])
        shown = await page.locator("#fields label, #fields legend").all_text_contents()
        names = {text.removesuffix("*").lower().replace(" ", "_") for text in shown}
        assert set(model["fields"]["properties"]) <= names, model["id"]


async def test_styles_are_selected_by_name_and_groups_sent_as_a_list(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    await page.get_by_label("Model").select_option("pika")
    await page.get_by_label("Prompt").fill("A lake")
    await page.get_by_label("Style").select_option("Moody")
    await page.get_by_role("button", name="Generate").click()
    await completed(page)
    await page.get_by_label("Model").select_option("gaga-1")
    await page.get_by_label("Prompt").first.fill("")
    await page.get_by_text("More options").click()
    for words in ("One.", "Two."):
        await page.get_by_role("button", name="Add chunk").click()
        await page.get_by_label("Prompt").last.fill(words)
    await page.get_by_role("button", name="Generate").click()
    await expect(stage(page).locator("h2")).to_have_text("gaga-1")
    gaga, pika = (await deployment.http.get("/api/jobs")).json()["jobs"]
    assert pika["order"]["style"] == "2"
    assert [chunk["prompt"] for chunk in gaga["order"]["chunks"]] == ["One.", "Two."]


# --- a job on the stage ---


async def test_a_running_job_is_canceled_by_its_button(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    await order(page, "[stuck]", "gaga-1")
    await expect(stage(page).locator(".time")).to_contain_text("so far, usually 1 to 5 min")
    await page.get_by_role("button", name="Cancel").click()
    await expect(stage(page).locator(".pill")).to_have_text("Canceled")
    assert (await deployment.http.get("/api/jobs")).json()["jobs"][0]["status"] == "Canceled"


async def test_the_remaining_time_is_estimated_from_completed_jobs(deployment: Deployment, enter: Enter) -> None:
    await asyncio.gather(*(deployment.generate("gaga-1", prompt="Hello") for _ in range(10)))
    page = await enter()
    clock: PacedClock = deployment.clock
    clock.run(0)  # On a busy machine the job would soon be older than the ten, and have no estimate.
    await order(page, "[stuck]", "gaga-1")
    await expect(stage(page).locator(".time")).to_contain_text(re.compile(r"so far, about .+ left"))


async def test_progress_moves_the_bar(deployment: Deployment, enter: Enter) -> None:
    clock: PacedClock = deployment.clock
    page = await enter()
    await order(page, "[stuck] A street", "grok-imagine-video")
    await expect(stage(page).locator(".time")).to_contain_text(re.compile(r"^[1-9]\d* %"))
    shown = await stage(page).locator("progress").evaluate("(bar) => bar.value")
    clock.run(0)
    (job,) = (await deployment.http.get("/api/jobs")).json()["jobs"]
    assert 0 < shown <= job["progress"]


async def test_a_failed_job_shows_its_reason_and_refund(enter: Enter) -> None:
    page = await enter()
    await order(page, "[fail]", "gaga-1")
    await expect(stage(page).get_by_role("alert")).to_contain_text("no face was found in the image")
    await expect(stage(page).get_by_role("alert")).to_contain_text("20 tokens were given back")
    await expect(page.locator("#balance")).to_have_text("web: 1,000 tokens")


async def test_the_raw_frames_are_those_of_the_wire(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    await order(page, "Hello", "gaga-1")
    await completed(page)
    await page.get_by_text("Raw frames").click()
    shown = stage(page).locator("pre")
    await expect(shown).to_contain_text('"status":"Completed"')
    job = await page.evaluate("location.hash.slice(1)")
    async with deployment.open("GET", f"/api/jobs/{job}/events") as response:
        assert await shown.text_content() == (await response.aread()).decode()


async def test_text_of_clients_and_providers_never_becomes_markup(enter: Enter) -> None:
    page = await enter()
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    await order(page, evil, "suno")
    await completed(page)
    assert await page.locator("#stage .asked").text_content() == evil
    assert await page.locator("#stage img, #recent img, main script").count() == 0


async def test_only_web_addresses_are_followed(enter: Enter) -> None:
    page = await enter()
    given = ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//", "blob:x", "", "http://x.test/y"]
    follow = "async (urls) => urls.map((await import('/playground/dom.js')).webUrl).filter(Boolean)"
    assert await page.evaluate(follow, given) == ["http://x.test/y"]


# --- copied ---


async def copied(page: Page, name: str) -> str:
    await stage(page).get_by_role("button", name=name).click()
    await expect(stage(page).get_by_role("button", name="Copied")).to_be_visible()
    text: str = await page.evaluate("navigator.clipboard.readText()")
    return text


async def test_the_copied_curl_command_repeats_the_order(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    await order(page, "It's a 'song'", "suno")
    await completed(page)
    command = await copied(page, "Copy as curl")
    assert deployment.key not in command
    environment = {"POLLCAST_KEY": deployment.key, "PATH": "/usr/bin:/bin"}
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert b'"status":"Completed"' in out
    first, second = (await deployment.http.get("/api/jobs")).json()["jobs"]
    assert first["order"] == second["order"]


async def test_the_copied_javascript_repeats_the_order(
    deployment: Deployment, enter: Enter, open_page: Open, elsewhere: str
) -> None:
    page = await enter()
    await order(page, "It's a `song`", "suno")
    await completed(page)
    script = await copied(page, "Copy as JavaScript")
    assert deployment.key not in script
    other = await open_page(elsewhere)
    await other.evaluate(
        "(text) => import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' })))",
        script.replace("YOUR_KEY", deployment.key),
    )
    first, second = (await deployment.http.get("/api/jobs")).json()["jobs"]
    assert first["order"] == second["order"]


# --- the list ---


async def test_the_list_survives_a_reload_and_shows_other_clients_orders(
    deployment: Deployment, enter: Enter, asked: list[Request]
) -> None:
    page = await enter()
    await order(page, "Mine", "suno")
    await completed(page)
    await page.reload()
    await expect(page.locator("#recent li")).to_have_count(1)
    await expect(stage(page)).to_contain_text("Mine")
    await deployment.submit("gaga-1", prompt="Another's")
    await expect(page.locator("#recent li").first).to_contain_text("Another's")
    await expect(page.locator("#recent li").first.locator(".pill")).to_have_text("Completed")
    assert sum("/api/events?" in request.url for request in asked) == 2  # one for each load of the page


async def test_older_jobs_are_shown_on_request(deployment: Deployment, enter: Enter) -> None:
    for n in range(22):
        await deployment.submit("suno", prompt=f"Song {n}")
    page = await enter()
    await expect(page.get_by_role("button", name="Show older jobs")).to_be_visible()
    await page.get_by_role("button", name="Show older jobs").click()
    await expect(page.get_by_text("Song 0", exact=True)).to_be_visible()
    titles = await page.locator("#recent .what").all_text_contents()
    assert titles == [f"Song {n}" for n in reversed(range(22))]


async def test_an_order_that_a_reload_interrupts_is_made_once(
    deployment: Deployment, enter: Enter, context: BrowserContext
) -> None:
    page = await enter()
    sent = await lose_first_answer(context)
    await order(page, "Once", "suno")
    await expect(page.locator("#recent li")).to_have_count(1)
    await expect(page.get_by_role("button", name="Sending …")).to_be_visible()
    await sent.wait()
    async with context.expect_event(
        "response", lambda response: response.request.method == "POST" and response.url.endswith("/api/jobs")
    ) as again:
        await page.reload()
    assert (await again.value).headers["idempotency-replayed"] == "true"
    assert len((await deployment.http.get("/api/jobs")).json()["jobs"]) == 1


# --- errors ---


async def test_a_wrong_key_is_reported_and_requested_again(enter: Enter, complaints: list[str]) -> None:
    page = await enter("pollcast_wrong")
    await expect(page.get_by_role("alert").first).to_have_text("This key is unknown or was revoked.")
    await expect(page.get_by_label("API key")).to_be_focused()
    assert await page.evaluate("sessionStorage.length") == 0
    assert complaints
    complaints.clear()


async def test_a_key_that_is_revoked_meanwhile_leads_back_to_the_gate(
    deployment: Deployment, enter: Enter, context: BrowserContext, complaints: list[str]
) -> None:
    async with context.expect_event("response", lambda response: "/api/jobs?" in response.url):
        page = await enter()
    async with open_store(deployment.store_url, deployment.clock) as store:
        for key in await store.keys():
            await store.revoke_key(key.id)
    await order(page, "A song", "suno")
    await expect(page.get_by_label("API key")).to_be_visible()
    await expect(page.get_by_role("alert").first).to_have_text("This key is unknown or was revoked.")
    complaints.clear()


async def test_an_account_without_tokens_sees_the_price_and_its_balance(
    deployment: Deployment, enter: Enter, complaints: list[str]
) -> None:
    page = await enter(await deployment.new_key("poor", 3))
    await order(page, "A song", "suno")
    told = page.locator("#order-error")
    await expect(told).to_contain_text("10")
    await expect(told).to_contain_text("3")
    await expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    assert all("418" in line for line in complaints)
    complaints.clear()


async def test_an_order_waiting_at_a_limit_shows_why_and_can_be_withdrawn(
    tmp_path: Path, open_page: Open, complaints: list[str]
) -> None:
    async with Deployment(tmp_path, clock=PacedClock(30), settings={"max_jobs": 1, "queue": 0}) as deployment:
        page = await open_page(f"{deployment.origin}/")
        await page.get_by_label("API key").fill(deployment.key)
        await page.get_by_role("button", name="Open the playground").click()
        await order(page, "[stuck]")
        await expect(stage(page).locator(".pill")).to_have_text(re.compile("Processing"))
        await order(page, "Hello")
        await expect(page.locator("#order-error")).to_contain_text("1 unfinished")
        await page.get_by_role("button", name="Take back").click()
        await expect(page.get_by_role("button", name="Generate")).to_be_enabled()
        await expect(page.locator("#order-error")).to_have_text("")
        assert len((await deployment.http.get("/api/jobs")).json()["jobs"]) == 1
        await page.close()
        complaints.clear()


async def test_an_address_with_another_job_s_name_shows_that_job(deployment: Deployment, enter: Enter) -> None:
    jobs = [(await deployment.generate("suno", prompt=prompt))[0]["job"] for prompt in ("First song", "Second song")]
    page = await enter()
    for job in jobs:
        await page.goto(f"{deployment.origin}/#{job}")
        await expect(stage(page)).to_contain_text(job)


async def test_an_error_is_shown_at_its_field(enter: Enter, complaints: list[str]) -> None:
    page = await enter()
    await page.get_by_label("Model").select_option("gaga-1")
    await page.get_by_text("More options").click()
    await page.get_by_label("Aspect ratio").fill("wide")
    await page.get_by_role("button", name="Add chunk").click()
    await page.get_by_text("More options").click()
    await page.get_by_role("button", name="Generate").click()
    await expect(page.get_by_label("Aspect ratio")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Aspect ratio")).to_be_focused()
    await expect(page.get_by_label("Prompt").last).to_have_attribute("aria-invalid", "true")
    complaints.clear()


async def test_invalid_json_is_reported_before_it_is_sent(deployment: Deployment, enter: Enter) -> None:
    page = await enter()
    await page.get_by_label("Model").select_option("ganai-bulk")
    await page.get_by_label("Items").fill('[{"unique_id": ]')
    await page.get_by_role("button", name="Generate").click()
    await expect(page.locator("#fields .fault").first).to_contain_text("This is not JSON")
    assert (await deployment.http.get("/api/jobs")).json()["jobs"] == []


async def test_a_file_that_is_no_media_is_refused_at_its_field(enter: Enter, complaints: list[str]) -> None:
    page = await enter()
    await page.locator("input[type=file]").first.set_input_files(
        {"name": "page.html", "mimeType": "text/html", "buffer": b"<h1>Hello</h1>"}
    )
    await expect(page.get_by_label("Image", exact=True)).to_have_attribute("aria-invalid", "true")
    complaints.clear()


async def test_a_lost_connection_is_shown_until_it_is_restored(
    deployment: Deployment, enter: Enter, complaints: list[str]
) -> None:
    page = await enter()
    notice = page.get_by_text("The connection is lost. Reconnecting")
    await expect(page.locator("#balance")).to_be_visible()
    await expect(notice).to_be_hidden()
    port = int(deployment.origin.rsplit(":", 1)[1])
    await deployment.stop()
    await expect(notice).to_be_visible()
    await deployment.start(port)
    await expect(notice).to_be_hidden(timeout=20_000)
    complaints.clear()


# --- accessibility ---


async def test_the_page_is_used_with_the_keyboard_alone(deployment: Deployment, open_page: Open) -> None:
    page = await open_page(f"{deployment.origin}/")
    keyboard = page.keyboard
    await keyboard.type(deployment.key)  # The key's field has the focus.
    await keyboard.press("Enter")
    await expect(page.get_by_label("Model")).to_be_focused()
    await keyboard.press("Tab")
    await keyboard.type("Hello")
    for _ in range(20):
        await keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id === 'send'"):
            break
    await keyboard.press("Enter")
    await completed(page)
    await expect(page.locator("#news")).to_have_text("gaga-1: Completed")


async def test_every_control_has_a_name(enter: Enter) -> None:
    page = await enter()
    await page.get_by_text("More options").click()
    await order(page, "Hello", "gaga-1")
    await completed(page)
    unnamed = await page.evaluate("""() => {
      const isNamed = (e) => e.labels?.length || e.textContent.trim() || e.ariaLabel || e.ariaLabelledByElements;
      const controls = [...document.querySelectorAll("button, input, select, textarea, progress")];
      return controls.filter((e) => !e.hidden && !isNamed(e)).map((e) => e.outerHTML);
    }""")
    assert unnamed == []


async def test_a_control_s_name_begins_with_its_visible_label(enter: Enter) -> None:
    page = await enter()
    await page.get_by_text("More options").click()
    others = await page.evaluate("""() => {
      const isOther = (e) => /^\\w/.test(e.textContent.trim()) && !e.ariaLabel.startsWith(e.textContent.trim());
      return [...document.querySelectorAll("button[aria-label]")].filter(isOther).map((e) => e.outerHTML);
    }""")
    assert others == []


async def test_nothing_is_wider_than_the_screen(enter: Enter) -> None:
    page = await enter()
    await order(page, "Hello " + "w" * 300, "gaga-1")
    await completed(page)
    await page.get_by_text("Raw frames").click()
    await expect(stage(page).locator("pre")).to_contain_text("Completed")
    for width in (320, 390, 700, 1000, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_the_page_is_dark_where_the_system_is(enter: Enter) -> None:
    page = await enter()
    lightness = "() => Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number))"
    assert await page.evaluate(lightness) > 200
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(lightness) < 60


async def test_only_results_are_loaded_from_another_host(
    deployment: Deployment, enter: Enter, asked: list[Request]
) -> None:
    page = await enter()
    await order(page, "A song", "suno")
    await completed(page)
    origins = {str(URL(request.url).origin()) for request in asked if request.url.startswith("http")}
    assert origins == {deployment.origin, deployment.simulator.origin}
