"""The repository's root, and the pages of its documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "proxy" / "docs"


def page(name: str) -> str:
    """Return the text of a page of `proxy/docs/`."""
    return (PAGES / f"{name}.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
