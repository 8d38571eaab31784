"""A short provider file, whose tables a test can replace, and its adapter in front of a literal provider."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from proxy.core.clock import Clock, SystemClock
from proxy.core.provider_file import FileText, ReadFile, read
from proxy.providers.declared import Declared, DeclaredKind
from proxy.upstream.requests import File

ACME = Path(__file__).parents[1] / "providers" / "files" / "acme.toml"
KEY = "access-key:secret-key-of-at-least-thirty-two-bytes"
TABLES = {
    "top": 'name = "short"\ntitle = "Short"\nbase_url = "https://api.short.example"\nchecked = 2026-11-20',
    "auth": 'header = "Authorization"\nvalue = "Bearer {key}"',
    "submit": 'path = "/jobs"\nid = "id"',
    "poll": 'path = "/jobs/{id}"\nstatus = "status"\n'
    'words = { waiting = "queued", working = "running", ready = "done", broken = "failed" }',
    "result": 'output = "url"',
    "[model]": 'name = "one"\nkind = "video"\nprice = 5\ntypical_seconds = [1, 9]\n'
    'fields = { prompt = { type = "text", required = true } }',
}


def short(**tables: str) -> str:
    """The short file with some tables replaced or added; `model` is a list's item."""
    named = {("[model]" if name == "model" else name): text for name, text in tables.items()}
    found = {**TABLES, **named}
    top = found.pop("top")
    return "\n".join([top, *(f"[{name}]\n{text}" for name, text in found.items())])


def parse(text: str) -> ReadFile:
    return read(FileText("short.toml", text), lambda _: None)


@asynccontextmanager
async def adapter(text: str, origin: str, clock: Clock | None = None, key: str = KEY) -> AsyncIterator[Declared]:
    """The adapter of a file, with `origin` in its provider's place."""
    kind = DeclaredKind(parse(text))
    settings = kind.settings_type(base_url=origin, api_key=SecretStr(key), rate=10_000)
    provider = kind(settings, clock or SystemClock(), "http://127.0.0.1:8000")
    async with provider.upstream:
        yield provider


class Brought:
    """What a client brought: every reference is the same PNG."""

    def __init__(self, data: bytes = b"\x89PNG") -> None:
        self.file = File("asset_1.png", "image/png", data)

    async def files(self, refs: Sequence[str]) -> Sequence[File]:
        return [self.file for _ in refs]

    async def upload(self, ref: str, send: Any) -> Any:
        del ref
        return await send(self.file)

    def url(self, ref: str) -> str:
        return f"https://cast.example/{ref}" if ref.startswith("asset_") else ref
