"""The Lua scripts of the Redis store: the head of each names the locals of other scripts that it uses."""

import re

import pytest

from proxy.store.redis.connection import SCRIPT_FOLDER, SCRIPT_NAMES

SOURCES = {name: (SCRIPT_FOLDER / f"{name}.lua").read_text() for name in SCRIPT_NAMES}


def defined(source: str) -> set[str]:
    """Return the names of a script's top-level locals."""
    return set(re.findall(r"^local (?:function )?(\w+)", source, re.MULTILINE))


def used(source: str) -> set[str]:
    """Return the identifiers in a script's code, without strings, comments and fields."""
    code = re.sub(r"--[^\n]*|'[^']*'", "", source)
    return set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", code))


def listed(source: str) -> dict[str, set[str]]:
    """Return the names in a script's `Uses, from A: ... From B: ...`, by script."""
    head = re.sub(r"\n-- ?", " ", source.split("\n\n")[0])
    found = re.findall(r"[Ff]rom (\w+)\.lua: ([\w, ]+)\.", head)
    return {script: set(names.split(", ")) for script, names in found}


@pytest.mark.parametrize("name", SCRIPT_NAMES[1:])
def test_a_script_lists_the_locals_it_uses_of_others(name: str) -> None:
    own = defined(SOURCES[name])
    needed = {other: (used(SOURCES[name]) - own) & defined(source) for other, source in SOURCES.items()}
    assert listed(SOURCES[name]) == {other: names for other, names in needed.items() if names and other != name}
