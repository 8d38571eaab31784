"""The reference pages under /docs."""

import re

import pytest

from proxy.api.endpoints import docs
from tests.support.deployment import Deployment


@pytest.mark.parametrize("name", docs.names())
async def test_each_page_is_html_without_scripts_or_other_hosts(deployment: Deployment, name: str) -> None:
    answer = await deployment.http.get(f"/docs/{name}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script" not in answer.text
    assert "<!--" not in answer.text
    assert "&lt;!--" not in answer.text


@pytest.mark.parametrize("name", docs.names())
async def test_each_link_between_pages_leads_to_a_heading(deployment: Deployment, name: str) -> None:
    page = (await deployment.http.get(f"/docs/{name}")).text
    for target in re.findall(r'<a href="([a-z][^":]*|#[^"]*)"', page):
        other, _, heading = target.partition("#")
        answer = await deployment.http.get(f"/docs/{other or name}")
        assert answer.status_code == 200, target
        assert not heading or f'id="{heading}"' in answer.text, target


async def test_tables_and_code_are_rendered(deployment: Deployment) -> None:
    page = (await deployment.http.get("/docs/settings")).text
    assert "<td><code>POLLCAST_KEEPALIVE</code></td>" in page


async def test_a_page_is_served_as_markdown_by_its_file_name(deployment: Deployment) -> None:
    answer = await deployment.http.get("/docs/settings.md")
    assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert answer.text.startswith("# Settings\n")


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/playground.png", "/docs/..%2Fapp.py", "/docs/api.md.md"])
async def test_other_files_are_not_served(deployment: Deployment, path: str) -> None:
    answer = await deployment.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_page_of_the_api_links_to_the_pages(deployment: Deployment) -> None:
    assert "<a href='docs/api'>" in (await deployment.http.get("/docs")).text
