"""Content negotiation: which form of a stream the client prefers, by its `Accept` header (RFC 9110, section 12.5.1)."""

import re
from functools import lru_cache
from typing import Final
from urllib.request import parse_http_list

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

_WEIGHT: Final = re.compile(r"0?\.[0-9]+|0\.?|1(?:\.0*)?")
_FORMS: Final = frozenset({"text/plain", "text/event-stream"})
"""The forms of a stream. Both are sent in UTF-8."""
_CACHE_SIZE: Final = 256
"""Distinct `Accept` headers whose answer is kept: there are few, and most requests repeat them."""


def wants_lines(request: Request) -> bool:
    """Whether the client prefers plain lines to events. A tie means events."""
    return prefers_lines(", ".join(request.headers.getlist("Accept")))


@lru_cache(_CACHE_SIZE)
def prefers_lines(accept: str) -> bool:
    """Whether an `Accept` header, its lines joined by commas, gives `text/plain` the greater weight."""
    weights = _weights(accept)
    return weights["text/plain"] > weights["text/event-stream"]


def _weights(accept: str) -> dict[str, float]:
    """The weight of each form: that of the most specific range that matches it. An unreadable range is ignored."""
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
    """How closely a media range describes a form: 3 with parameters, 2 exactly, 1 by type, 0 any, -1 not at all."""
    if any(key != "charset" or value.lower() != "utf-8" for key, value in parameters.items()):
        return -1
    if name == form:
        return 3 if parameters else 2
    # Java's HttpURLConnection writes a bare `*`.
    return {"text/*": 1, "*/*": 0, "*": 0}.get(name, -1)
