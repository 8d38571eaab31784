"""pollcast.js in the builds of applications: bundlers accept it without a warning, and it runs with a given server."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import expect

from tests.browser.conftest import Open
from tests.support.deployment import Deployment
from tests.support.npm import install
from tests.support.root import ROOT
from tests.support.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="session")

SOURCE = ROOT / "proxy" / "playground" / "pollcast.js"
PACKAGES = (
    "esbuild@0.28.2",
    "next@16.4.6",
    "react@19.3.1",
    "react-dom@19.3.1",
    "vite@8.4.0",
    "@vitejs/plugin-react@6.3.0",
    "webpack@5.113.0",
    "webpack-cli@7.3.1",
)
ORDER = """
import { connect } from "./pollcast.js";

export function client() {
  const { server, key } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  return connect({ url: server || undefined, key });
}
export const order = (pollcast) => pollcast.generate({ model: "suno", prompt: "A song" });
"""
REACT = """
import { useEffect, useState } from "react";
import { client, order } from "./order.js";

export default function Studio() {
  const [told, setTold] = useState("");
  const [seen, setSeen] = useState([]);
  const [pollcast, setPollcast] = useState();
  useEffect(() => {
    const made = client();
    setPollcast(made);
    const onEvent = ({ n, status }) => setSeen((before) => [...before, `${n} ${status}`]);
    made.watchAll({ onEvent }).catch((error) => setTold(error.message));
    return () => made.close();
  }, []);
  const show = () => order(pollcast).then(({ status }) => setTold(status), (error) => setTold(error.message));
  const events = seen.map((event) => <li key={event}>{event}</li>);
  return <><button onClick={show}>Order</button><p role="status">{told}</p><ol>{events}</ol></>;
}
"""
PLAIN = """
import { client, order } from "./order.js";

const told = document.querySelector("p");
const tell = (error) => (told.textContent = error.message);
const show = ({ status }) => (told.textContent = status);
document.querySelector("button").onclick = () => order(client()).then(show, tell);
"""
PAGE = """<!doctype html><link rel=icon href=data:,>{body}<script type=module src={script}></script>"""
NEXT = {
    "package.json": '{"private": true}',
    "next.config.mjs": 'export default { output: "export", reactStrictMode: true };',
    "app/layout.jsx": "export default ({ children }) => <html><body>{children}</body></html>;",
    "app/page.jsx": f'"use client";\n{REACT}',
    "app/order.js": ORDER,
}
VITE = {
    "package.json": '{"private": true, "type": "module"}',
    "vite.config.js": 'import react from "@vitejs/plugin-react"; export default { base: "./", plugins: [react()] };',
    "index.html": PAGE.format(body="<div id=root></div>", script="main.jsx"),
    "main.jsx": """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import Studio from "./studio.jsx";

createRoot(document.getElementById("root")).render(<StrictMode><Studio /></StrictMode>);
""",
    "studio.jsx": REACT,
    "order.js": ORDER,
}
SCRIPT = {"package.json": '{"private": true}', "main.js": PLAIN, "order.js": ORDER}
BUILDS = {
    "next-turbopack": (NEXT, "next build", "out"),
    "next-webpack": (NEXT, "next build --webpack", "out"),
    "vite": (VITE, "vite build", "dist"),
    "webpack": (SCRIPT, "webpack --mode production --entry ./main.js -o dist", "dist"),
    "esbuild-module": (SCRIPT, "esbuild main.js --bundle --format=esm --outfile=dist/main.js", "dist"),
    "esbuild-script": (SCRIPT, "esbuild main.js --bundle --outfile=dist/main.js", "dist"),
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("bundlers"), *PACKAGES, seconds=400)


def build(packages: Path, name: str) -> Path:
    """Bundle a project that uses pollcast.js, and return the output folder. Check that there is no warning."""
    files, command, made = BUILDS[name]
    folder = packages / name
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    beside = next(folder.glob("**/order.js")).parent
    (beside / "pollcast.js").write_text(SOURCE.read_text())
    program, *arguments = command.split()
    done = subprocess.run(  # noqa: S603
        [packages / "node_modules" / ".bin" / program, *arguments],
        cwd=folder,
        env=os.environ | {"NEXT_TELEMETRY_DISABLED": "1", "CI": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert not re.search("warn|⚠|import.meta", done.stdout, re.IGNORECASE), done.stdout
    if not (folder / made / "index.html").exists():
        (folder / made / "index.html").write_text(
            PAGE.format(body="<button>Order</button><p role=status></p>", script="main.js")
        )
    return folder / made


@pytest.mark.wide
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BUILDS)
async def test_a_built_page_completes_an_order(
    deployment: Deployment, open_page: Open, packages: Path, complaints: list[str], name: str
) -> None:
    folder = await asyncio.to_thread(build, packages, name)

    async def file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(folder / (request.path.strip("/") or "index.html"))

    async with Site(file) as site:
        page = await open_page(f"{site.url}/#server={deployment.origin}&key={deployment.key}")
        await page.get_by_role("button", name="Order").click()
        await expect(page.get_by_role("status").first).to_have_text("Completed")
        jobs = (await deployment.http.get("/api/jobs")).json()["jobs"]
        assert len(jobs) == 1
        if name.startswith(("next", "vite")):
            await expect(page.locator("li").last).to_have_text(f"{jobs[0]['event']} Completed")
        await page.goto("about:blank")
        await page.goto(f"{site.url}/#key={deployment.key}")  # without the server's address
        await page.get_by_role("button", name="Order").click()
        await expect(page.get_by_role("status").first).to_contain_text("Give connect() the server's `url`")
        await page.close()
    complaints.clear()


async def test_no_bundler_takes_pollcast_js_for_a_page_with_assets() -> None:
    source = SOURCE.read_text()
    assert not re.search(r"new URL\([^)]*import\.meta", source)
    assert len(re.findall(r"import\.meta\.url", source)) == 1
    assert re.search(r"try \{\n[^}]*import\.meta\.url[^}]*\n  \} catch", source)


async def test_under_another_name_it_asks_for_its_server(
    deployment: Deployment, open_page: Open, elsewhere: str
) -> None:
    page = await open_page(elsewhere)
    refused, done = await page.evaluate(
        """async ([text, url, key]) => {
          const { connect } = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
          const order = { model: "suno", prompt: "A song" };
          const refused = await connect({ key }).generate(order).catch(({ code, message }) => [code, message]);
          return [refused, await connect({ url, key }).generate(order)];
        }""",
        [SOURCE.read_text(), deployment.origin, deployment.key],
    )
    assert refused == ["bad_request", "Give connect() the server's `url`: a bundled pollcast.js cannot know it."]
    assert done["status"] == "Completed"
