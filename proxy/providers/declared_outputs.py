"""Outputs in the answers of a provider that a file describes."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.core.job import Kind, Output, Role
from proxy.core.json_path import JsonPath
from proxy.core.media_types import SNIFFED, TEXT, UNKNOWN, by_url, sniff
from proxy.core.provider_tables import ModelTable, Result
from proxy.providers.base import NewOutput, as_id, urls_in
from proxy.providers.declared_errors import first, is_set
from proxy.upstream.answers import UnreadableAnswer, loads
from proxy.upstream.client import Upstream

_ROLES: Final[Mapping[Kind, Role]] = {
    Kind.VIDEO: Role.VIDEO,
    Kind.IMAGE: Role.IMAGE,
    Kind.AUDIO: Role.AUDIO,
    Kind.TEXT: Role.TEXT,
}
_MAX_OUTPUTS: Final = 100
"""Maximum number of values of a result that become outputs."""


@dataclass(frozen=True, slots=True)
class Found:
    """An output in an answer: its role, and its URL, or its bytes."""

    role: Role
    url: str | None = None
    data: bytes | None = None


class OutputReader:
    """Reads the outputs of one model from answers."""

    def __init__(self, result: Result, model: ModelTable, upstream: Upstream) -> None:
        self._result = result
        self._upstream = upstream
        self._own = _ROLES[model.kind]
        self._urls: Sequence[tuple[Role, list[JsonPath]]] = [
            (role, paths)
            for role, paths in (
                (self._own, model.output or result.output),
                (Role.VIDEO, result.video),
                (Role.IMAGE, result.image),
                (Role.AUDIO, result.audio),
            )
            if paths
        ]

    def document(self, body: object) -> object:
        """Return the JSON in which the outputs are. Raises UnreadableAnswer."""
        if self._result.decode is None:
            return body
        text = self._result.decode.find(body)
        if text is None:
            return None
        inner = loads(text.encode()) if isinstance(text, str) else text
        if inner is None:
            raise UnreadableAnswer(f"The text at {self._result.decode.text} is not JSON.")
        return inner

    def found(self, document: object) -> list[Found]:
        """Return the outputs in a result, with absolute URLs. Raises UnreadableAnswer."""
        made = list(self._with_urls(document))
        made += [Found(self._own, data=_decode(text)) for text in _texts(first(self._result.base64, document))]
        made += [Found(Role.TEXT, data=text.encode()) for text in _texts(first(self._result.text, document))]
        return made[:_MAX_OUTPUTS]

    def _with_urls(self, document: object) -> Iterator[Found]:
        for role, paths in self._urls:
            for url in urls_in(*(path.find(document) for path in paths)):
                if url[:5].lower() == "data:":
                    yield Found(role, data=_decode(url))
                else:
                    yield Found(role, self._upstream.absolute(url))

    def outputs(self, document: object) -> list[NewOutput]:
        """Return the outputs in a result, as the job shows them. Raises UnreadableAnswer."""
        thumbnails = [*map(self._upstream.url_or_none, _texts(first(self._result.thumbnail, document)))]
        ids = {name: _listed(first(paths, document)) for name, paths in self._result.ids.items()}
        made = []
        for n, found in enumerate(self.found(document)):
            own = {name: known for name, values in ids.items() if n < len(values) and (known := as_id(values[n]))}
            made.append(self._output(found, thumbnails[n] if n < len(thumbnails) else None, own))
        return made

    def _output(self, found: Found, thumbnail: str | None, ids: Mapping[str, str]) -> NewOutput:
        if found.data is not None:
            kind = TEXT if found.role is Role.TEXT else sniff(found.data[:SNIFFED]) or UNKNOWN
            return NewOutput(Output(found.role, kind, thumbnail_url=thumbnail, ids=ids), found.data)
        url = found.url or ""
        relayed = self._result.keyed and self._upstream.is_own(url)
        shown = None if relayed else url
        kind = by_url(url, found.role)
        return NewOutput(Output(found.role, kind, url=shown, relayed=relayed, thumbnail_url=thumbnail, ids=ids))

    def blocked_message(self, document: object) -> str | None:
        """Return why a result without outputs was blocked; None if it was not."""
        if not any(is_set(path.find(document)) for path in self._result.blocked):
            return None
        return "; ".join(_texts(first(self._result.blocked_message, document)))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: object) -> list[str]:
    return [text for text in _listed(value) if isinstance(text, str) and text.strip()]


def _decode(text: str) -> bytes:
    """Return the bytes of base64 or of a data URI. Raises UnreadableAnswer."""
    try:
        data = base64.b64decode(text.partition(",")[2] if text[:5].lower() == "data:" else text)
    except ValueError:
        data = b""
    if not data:
        raise UnreadableAnswer("The provider's result is not base64.")
    return data
