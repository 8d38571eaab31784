"""Answers of a provider that a file describes: the state of a job, and its outputs. No I/O."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.core.job import Kind, Output, Role
from proxy.core.json_path import JsonPath
from proxy.core.media_types import SNIFFED, TEXT, UNKNOWN, by_url, sniff
from proxy.core.provider_tables import ModelTable, Poll, Result, State
from proxy.providers.base import NewOutput, as_id, urls_in
from proxy.providers.declared_errors import first
from proxy.upstream.answers import UnreadableAnswer, loads
from proxy.upstream.classify import plain
from proxy.upstream.client import Upstream

_FINAL_WORDS: Final = frozenset({"canceled", "blocked", "expired", "gone"})
"""States whose word outweighs an error in the same answer."""
_ROLES: Final[Mapping[Kind, Role]] = {
    Kind.VIDEO: Role.VIDEO,
    Kind.IMAGE: Role.IMAGE,
    Kind.AUDIO: Role.AUDIO,
    Kind.TEXT: Role.TEXT,
}
_MAX_OUTPUTS: Final = 100
"""Maximum number of values of a result that become outputs."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands: its state (None: unknown), the provider's word, and the progress in percent."""

    state: State | None
    word: str | None = None
    progress: float | None = None


class StateReader:
    """Reads the state of a job from the answers to polls."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._words: dict[str, State] = {plain(word): state for word, state in poll.words.items()}
        self._http: dict[int, State] = {int(status): state for status, state in poll.http.items()}

    def standing(self, body: object, status: int) -> Standing:
        """Return how the job stands by an answer."""
        poll = self._poll
        word = _word(first(poll.status, body))
        state = self._words.get(plain(word)) if word else None
        if any(_equals(path.find(body), value) for path, value in poll.blocked.items()):
            state = "blocked"
        elif state not in _FINAL_WORDS and any(is_set(path.find(body)) for path in poll.failed):
            state = "failed"
        elif state is None and not word:
            state = self._http.get(status, poll.absent)
        return Standing(state, word, self._progress(body) if poll.progress else None)

    def _progress(self, body: object) -> float | None:
        value = first(self._poll.progress, body)
        try:
            number = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
        except (TypeError, ValueError):
            return None
        return min(max(number / self._poll.progress_scale * 100, 0.0), 100.0) if number == number else None  # noqa: PLR0124


def _word(value: object) -> str | None:
    """Return a status as a word: booleans and numbers count as theirs."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value).strip() or None
    return None


def _equals(value: object, expected: object) -> bool:
    """Return whether two JSON values are equal. To Python, True equals 1."""
    return isinstance(value, bool) == isinstance(expected, bool) and value == expected


def is_set(value: object) -> bool:
    """Return whether a value is there: not null, false, 0, an empty text, nor an empty list or object."""
    return bool(value)


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
