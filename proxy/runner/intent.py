"""Record of an order that is about to be sent: its exact request, and the place that it is sent to.

After a lost answer the same request can be sent again, or its job can be looked up, if the provider offers that. Only
the provider's account that got the order knows it, so a record also holds a fingerprint of the credential and the URL.
"""

import hashlib

import orjson

from proxy.providers.base import Provider
from proxy.upstream.requests import Request, dump_json


def dump(provider: Provider, request: Request, *, with_body: bool) -> bytes:
    """Return the record of a request. A body is JSON without files. A request that is only looked up needs none."""
    record = {
        "path": request.path,
        "query": dict(request.query),
        "key": request.key,
        "model": request.model,
        "body": dump_json(request.json if with_body else None).decode(),
        "fingerprint": fingerprint(provider),
    }
    return orjson.dumps(record)


def load(record: bytes, provider: Provider) -> Request | None:
    """Return the recorded request, with the same bytes as body; None if the provider's key or URL has changed."""
    fields = orjson.loads(record)
    if fields["fingerprint"] != fingerprint(provider):
        return None
    body = orjson.Fragment(fields["body"])
    return Request(fields["path"], json=body, query=fields["query"], key=fields["key"], model=fields.get("model", ""))


def fingerprint(provider: Provider) -> str:
    """Return a digest of the provider's base URL and credential, from which neither can be read."""
    place = [provider.upstream.base_url, provider.dialect.account]
    return hashlib.sha256(orjson.dumps(place)).hexdigest()
