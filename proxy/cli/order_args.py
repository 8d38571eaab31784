"""Arguments of `generate`, converted to an order with the help of the catalogue's field schemas."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from proxy.cli.api_client import Client


class Field(click.ParamType[tuple[str, str]]):
    """click parameter type for `name=value`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the name and the value."""
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not of the form name=value.", param, ctx)
        return name, decode(text)


def decode(text: str) -> str:
    """Return an argument as valid text.

    In the locales C and POSIX, Python cannot decode UTF-8 arguments. They are decoded here. Raises click.UsageError
    for other bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeDecodeError:
            raise click.UsageError(f"{text!a} is not valid UTF-8.") from None
    return text


@dataclass(frozen=True, slots=True)
class OrderArguments:
    """Arguments of `generate`. `images` and `audio` are files, URLs or asset ids."""

    model: str
    prompt: str | None
    images: Sequence[str]
    audio: str | None
    fields: Sequence[tuple[str, str]]

    async def order(self, client: Client) -> dict[str, Any]:
        """Upload the files and return the order. Raises click.UsageError, Refused, Lost and OSError."""
        catalogue = await client.models()
        listed = {model["id"]: model["fields"]["properties"] for model in catalogue}
        known: Mapping[str, Any] = listed.get(self.model, {})
        order: dict[str, Any] = {"model": self.model} | {
            name: _value(text, known.get(name, {})) for name, text in self.fields
        }
        if self.prompt is not None:
            order["prompt"] = self.prompt
        if self.images:
            order |= await self._images(client, known)
        if self.audio is not None:
            order["audio"] = await _upload_file(client, self.audio)
        return order

    async def _images(self, client: Client, known: Mapping[str, Any]) -> dict[str, Any]:
        if "image" in known and len(self.images) == 1:
            return {"image": await _upload_file(client, self.images[0])}
        if known and "images" not in known:
            raise click.UsageError(f"{self.model} takes {'one image' if 'image' in known else 'no image'}.")
        return {"images": [await _upload_file(client, image) for image in self.images]}


async def _upload_file(client: Client, source: str) -> str:
    file = _file(source)
    return decode(source) if file is None else await client.upload(file)


def _file(source: str) -> Path | None:
    """Return the path of a file, or None for a URL or an asset id."""
    file = Path(source)
    if file.is_file():
        return file
    if "://" in source or source.startswith("asset_"):
        return None
    raise click.UsageError(f"{source} is not a file, a URL or an asset id.")


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value of a field: text if the schema says so, otherwise JSON if it parses, otherwise text."""
    if schema.get("type") == "string":
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
