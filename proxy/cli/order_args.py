"""An order as the command line says it, read with what the catalogue says of the model's fields."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from proxy.cli.api_client import Client


class Field(click.ParamType[tuple[str, str]]):
    """`name=value`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Part the name from the value."""
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is no name=value.", param, ctx)
        return name, typed(text)


def typed(text: str) -> str:
    """An argument as text. Its bytes are UTF-8 where Python could not read them by the locale's encoding (C, POSIX)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeDecodeError:
            raise click.UsageError(f"{text!a} is not text: its bytes are not UTF-8.") from None
    return text


@dataclass(frozen=True, slots=True)
class OrderArguments:
    """What the command line says; `images` and `audio` are files, URLs or ids of assets."""

    model: str
    prompt: str | None
    images: Sequence[str]
    audio: str | None
    fields: Sequence[tuple[str, str]]

    async def order(self, client: Client) -> dict[str, Any]:
        """The order, its files brought in. Raises click.UsageError, and what the client raises."""
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
            order["audio"] = await _brought(client, self.audio)
        return order

    async def _images(self, client: Client, known: Mapping[str, Any]) -> dict[str, Any]:
        if "image" in known and len(self.images) == 1:
            return {"image": await _brought(client, self.images[0])}
        if known and "images" not in known:
            raise click.UsageError(f"{self.model} takes {'one image' if 'image' in known else 'no image'}.")
        return {"images": [await _brought(client, image) for image in self.images]}


async def _brought(client: Client, place: str) -> str:
    file = _file(place)
    return typed(place) if file is None else await client.upload(file)


def _file(place: str) -> Path | None:
    """The file that is meant; None for a URL and an asset's id, which are taken as they are."""
    file = Path(place)
    if file.is_file():
        return file
    if "://" in place or place.startswith("asset_"):
        return None
    raise click.UsageError(f"{place} is neither a file nor a URL nor an asset's id.")


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """What `name=text` means: text where the model wants text, else JSON, else text."""
    if schema.get("type") == "string":
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
