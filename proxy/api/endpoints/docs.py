"""The reference pages of `proxy/docs/`: as HTML at `/docs/NAME`, as Markdown at `/docs/NAME.md`."""

import re
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.core.errors import NotFound

_FOLDER: Final = Path(__file__).parents[2] / "docs"
_MARKDOWN_HEADERS: Final = {"Content-Type": "text/markdown; charset=utf-8", "X-Content-Type-Options": "nosniff"}


def routes() -> list[Route]:
    """Return the route of all pages."""
    return [Route("/docs/{page}", _serve, methods=["GET"])]


def names() -> list[str]:
    """Return the names of all pages."""
    return sorted(path.stem for path in _FOLDER.glob("*.md"))


async def _serve(request: Request) -> Response:
    page = str(request.path_params["page"])
    name = page.removesuffix(".md")
    if name not in names():
        raise NotFound(f"There is no page {name!r}. There are {', '.join(names())}.")
    if page.endswith(".md"):
        return Response(_read(name), headers=_MARKDOWN_HEADERS)
    from proxy.api.openapi import page as api_page  # noqa: PLC0415 - a tenth of a server's start, seldom needed

    return Response(_html(name), headers=api_page.HEADERS)


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.md").read_text("utf-8")


@cache
def _html(name: str) -> str:
    """Return a page as HTML. Its links are relative, so that they keep the prefix of a proxy."""
    from proxy.api.openapi import page as api_page  # noqa: PLC0415

    text = re.sub(r"<!--.*?-->\n", "", _read(name))
    text = re.sub(r"\]\(([a-z-]+)\.md", r"](\1", text)
    text = re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", text)  # files of the repository, which are not served
    links = "".join(f"<li><a href='{each}'>{escape(_title(each))}</a></li>" for each in names())
    nav = f"<nav><a href='../docs'>All endpoints</a><ul>{links}</ul></nav>"
    return api_page.html_page(f"{_title(name)}: Pollcast", nav + "\n" + _body(text))


def _body(text: str) -> str:
    """Return Markdown as HTML whose headings have the ids that GitHub gives them."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - takes time to load, and most servers never show a page

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", re.sub(r"[^\w -]", "", content.content.lower()).replace(" ", "-"))
    return str(markdown.renderer.render(tokens, markdown.options, {}))


@cache
def _title(name: str) -> str:
    return _read(name).partition("\n")[0].removeprefix("# ")
