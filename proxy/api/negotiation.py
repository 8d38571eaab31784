"""Content negotiation: whether a stream is sent as events or as plain lines (RFC 9110, section 12.5.1)."""

import re
from functools import lru_cache
from typing import Final
from urllib.request import parse_http_list

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

_WEIGHT: Final = re.compile(r"0?\.[0-9]+|0\.?|1(?:\.0*)?")
_FORMS: Final = frozenset({"text/plain", "text/event-stream"})
"""The media types of a stream. Both are sent in UTF-8."""
_CACHE_SIZE: Final = 256
"""Maximum number of cached `Accept` headers. There are few different ones, and most requests repeat them."""


def wants_lines(request: Request) -> bool:
    """Return whether the client prefers plain lines to events. A tie means events."""
    return prefers_lines(", ".join(request.headers.getlist("Accept")))


@lru_cache(_CACHE_SIZE)
def prefers_lines(accept: str) -> bool:
    """Return whether an `Accept` header gives `text/plain` the greater weight.

    Repeated headers are joined by commas.
    """
    weights = _weights(accept)
    return weights["text/plain"] > weights["text/event-stream"]


def _weights(accept: str) -> dict[str, float]:
    """Return the weight of each media type, from the most specific range that matches it.

    A range that cannot be parsed is ignored.
    """
    best = dict.fromkeys(_FORMS, (-1, 0.0))
    for written in parse_http_list(accept):
        name, options = parse_options_header(written)
        parameters = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in options.items()}
        weight = parameters.pop("q", "1")
        if not _WEIGHT.fullmatch(weight):
            continue
        for form in _FORMS:
            specificity = _specificity(name.decode("latin-1").lower(), parameters, form)
            if specificity >= 0:
                best[form] = max(best[form], (specificity, float(weight)))
    return {form: weight for form, (_, weight) in best.items()}


def _specificity(name: str, parameters: dict[str, str], form: str) -> int:
    """Return how closely a media range matches a type: 3 with parameters, 2 exact, 1 `text/*`, 0 `*/*`, -1 no match."""
    if any(key != "charset" or value.lower() != "utf-8" for key, value in parameters.items()):
        return -1
    if name == form:
        return 3 if parameters else 2
    # Java's HttpURLConnection sends a bare `*`.
    return {"text/*": 1, "*/*": 0, "*": 0}.get(name, -1)
