"""Errors as responses, all in one form (contract, section 4)."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from proxy.core.errors import InvalidRequest, PollcastError


def error_response(error: PollcastError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as JSON, with its status."""
    body: dict[str, Any] = {"status": "Error", "message": error.message, "code": error.code}
    if isinstance(error, InvalidRequest):
        body["errors"] = [{"field": fault.field, "message": fault.message} for fault in error.errors]
    own = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(body), error.status, own | dict(headers or {}))
