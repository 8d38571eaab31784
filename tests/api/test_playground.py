"""The files of the playground and of the JavaScript client, over HTTP. `tests/browser` tests their behavior."""

import gzip
import re

import httpx
import pytest

from proxy.api.endpoints.playground import routes
from tests.support.deployment import Deployment

TYPES = {
    "/": "text/html; charset=utf-8",
    "/playground/playground.js": "text/javascript; charset=utf-8",
    "/playground/playground.css": "text/css; charset=utf-8",
    "/pollcast.js": "text/javascript; charset=utf-8",
    "/pollcast.d.ts": "application/typescript; charset=utf-8",
}


async def get(deployment: Deployment, path: str, **headers: str) -> httpx.Response:
    return await deployment.http.get(path, headers={"Authorization": "", **headers})


async def test_each_file_has_its_type_and_is_revalidated(deployment: Deployment) -> None:
    for path, media_type in TYPES.items():
        response = await get(deployment, path)
        assert (response.status_code, response.headers["content-type"]) == (200, media_type), path
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.content


async def test_a_current_copy_is_304(deployment: Deployment) -> None:
    etag = (await get(deployment, "/pollcast.js")).headers["etag"]
    for names in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await get(deployment, "/pollcast.js", **{"If-None-Match": names})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert "content-type" in response.headers
    for names in ('"other"', "", etag.strip('"')):
        assert (await get(deployment, "/pollcast.js", **{"If-None-Match": names})).status_code == 200


async def test_head_returns_only_the_headers(deployment: Deployment) -> None:
    for path in TYPES:
        got, head = await get(deployment, path), await deployment.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))
        assert head.headers["etag"] == got.headers["etag"]


async def test_the_page_may_load_only_results_from_other_hosts(deployment: Deployment) -> None:
    headers = (await get(deployment, "/")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for own in ("script-src", "style-src", "connect-src"):
        assert policy[own] == "'self'"
    for none in ("form-action", "frame-ancestors", "base-uri", "trusted-types"):
        assert policy[none] == "'none'"
    assert headers["referrer-policy"] == "no-referrer"


async def test_pages_of_any_origin_may_load_the_client(deployment: Deployment) -> None:
    for path in ("/pollcast.js", "/pollcast.d.ts"):
        headers = (await get(deployment, path, Origin="https://app.example.com")).headers
        assert headers["access-control-allow-origin"] == "*"
        assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert "access-control-allow-origin" not in (await get(deployment, "/", Origin="https://app.example.com")).headers


async def test_the_client_is_served_without_the_playground(unstarted: Deployment) -> None:
    unstarted.settings["playground"] = "off"
    async with unstarted as deployment:
        statuses = {path: (await get(deployment, path)).status_code for path in TYPES}
    assert statuses == {path: 200 if path.startswith("/pollcast.") else 404 for path in TYPES}


async def test_every_file_that_the_page_uses_is_served(deployment: Deployment) -> None:
    page = (await get(deployment, "/")).text
    named = [f"/{path}" for path in re.findall(r'(?:src|href)="(playground/[^"]+)"', page)]
    for path in named:
        text = (await get(deployment, path)).text
        named += [f"/playground/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
    assert len(named) > 3
    assert set(named) <= {route.path for route in routes(playground=True)}


@pytest.mark.parametrize(
    "path", ["/playground/", "/playground/index.html", "/playground/pollcast.js", "/playground/../pages.py"]
)
async def test_no_other_file_of_the_folder_is_served(deployment: Deployment, path: str) -> None:
    assert (await get(deployment, path)).status_code == 404


async def test_the_client_is_a_few_kilobytes(deployment: Deployment) -> None:
    text = (await get(deployment, "/pollcast.js")).text
    bare = re.sub(r"^ *(//|/\*|\*).*\n|^ +|(?<=[;{,]) // .*$", "", text, flags=re.MULTILINE)
    assert len(gzip.compress(bare.encode(), 9)) < 7000


async def test_the_types_match_the_client_s_exports(deployment: Deployment) -> None:
    exported = r"^export (?:declare )?(?:const|class|function|async function\*) (\w+)"
    script, types = [(await get(deployment, f"/pollcast.{end}")).text for end in ("js", "d.ts")]
    assert set(re.findall(exported, script, re.MULTILINE)) == set(re.findall(exported, types, re.MULTILINE))
    for method in re.findall(
        r"^  (?:async )?([a-z]\w+)\(.*\) \{$", script.split("class Pollcast {")[1].split("\n}")[0], re.MULTILINE
    ):
        assert method == "constructor" or re.search(rf"^  {method}[<(]", types, re.MULTILINE), method
