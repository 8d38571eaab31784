"""The HTTP API of contract section 3: requests in, orders admitted, jobs and streams out.

It knows the store, never the runner: an admitted job is found there by whichever node has room for it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NoReturn

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from proxy import media, orders
from proxy.answers import ReadFailed
from proxy.auth import Auth
from proxy.blobs import Blobs
from proxy.catalogue import Catalogue
from proxy.clock import Clock, rfc3339
from proxy.errors import (
    BadRequest,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedType,
    UpstreamFailed,
)
from proxy.feed import Feed
from proxy.fetch import Fetcher, FetchFailed, NotPublic, check_public
from proxy.job import Job, Order, Status, new_id
from proxy.links import Links
from proxy.media_types import kind_of, sniff
from proxy.providers.base import Reference, is_asset
from proxy.store.base import Admission, Admitted, Asset, Key, Store
from proxy.stream import BrokenOff, FeedResponse

_BODY_LIMIT: Final = 1 << 20
_PAGE: Final = 50
_LONGEST_PAGE: Final = 200
_CHUNK: Final = 1 << 18
_MULTIPART_ROOM: Final = 1 << 16
"""Bytes that a multipart body may have beyond its file."""


@dataclass(frozen=True, slots=True)
class Api:
    """The endpoints, and what they need."""

    store: Store
    blobs: Blobs
    feed: Feed
    links: Links
    auth: Auth
    catalogue: Catalogue
    fetcher: Fetcher
    clock: Clock
    heartbeat: float
    asset_limit: int
    relay: bool

    def routes(self) -> list[Route]:
        """Every path of the API; GET routes answer HEAD too."""
        return [
            _route("GET", "/api/ping", self.ping),
            _route("GET", "/healthz", self.healthz),
            _route("GET", "/readyz", self.readyz),
            _route("GET", "/api/models", self.models),
            _route("GET", "/api/account", self.account),
            _route("GET", "/api/account/ledger", self.ledger),
            _route("POST", "/api/generate", self.generate),
            Route("/api/jobs", self.jobs, methods=["GET", "POST"]),
            Route("/api/jobs/{job}", self.job, methods=["GET", "DELETE"]),
            _route("GET", "/api/jobs/{job}/events", self.events),
            _route("GET", "/api/jobs/{job}/content", self.content),
            _route("GET", "/api/jobs/{job}/content/{n}", self.content),
            _route("POST", "/api/jobs/{job}/cancel", self.cancel),
            _route("POST", "/api/assets", self.add_asset),
            Route("/api/assets/{asset}", self.asset, methods=["GET", "DELETE"]),
            _route("GET", "/api/assets/{asset}/content", self.asset_content),
        ]

    # --- without a key ---

    async def ping(self, _: Request) -> Response:
        """AI-Now's own: `pong`."""
        return PlainTextResponse("pong")

    async def healthz(self, _: Request) -> Response:
        """The process is alive."""
        return _json({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Work can be taken: the store can be written, and the server is not stopping."""
        self._check_running()
        await self.store.ping()
        return _json({"status": "ok"})

    async def models(self, _: Request) -> Response:
        """The catalogue."""
        return _json({"models": await self.catalogue.as_json()})

    # --- the account ---

    async def account(self, request: Request) -> Response:
        """Name and balance."""
        key = await self.auth.key(request)
        account = await self.store.account(key.account)
        if account is None:
            raise NotFound("The account is gone.")
        return _json({"name": account.name, "tokens": account.tokens})

    async def ledger(self, request: Request) -> Response:
        """What moved the balance, newest first."""
        key = await self.auth.key(request)
        page = await self.store.ledger(key.account, _limit(request), request.query_params.get("before"))
        entries = [asdict(entry) | {"at": rfc3339(entry.at)} for entry in page.items]
        return _json({"entries": entries, "next": page.next})

    # --- orders ---

    async def generate(self, request: Request) -> Response:
        """Admit an order and answer with its feed; the job goes on if the client leaves."""
        key = await self.auth.key(request)
        after = _last_event_id(request)
        if "Last-Event-ID" in request.headers and "Idempotency-Key" not in request.headers:
            raise Conflict("A reconnecting POST needs the Idempotency-Key of its first try; no job was made.")
        admitted = await self._admit(request, key)
        return self._feed(admitted.job, after, _admitted_headers(admitted))

    async def jobs(self, request: Request) -> Response:
        """POST: admit an order. GET: the account's own jobs."""
        key = await self.auth.key(request)
        if request.method != "POST":
            return await self._list(request, key)
        admitted = await self._admit(request, key)
        return _json(self._job(admitted.job, key), 202, _admitted_headers(admitted))

    async def _list(self, request: Request, key: Key) -> Response:
        query = request.query_params
        page = await self.store.jobs(
            key.account, _limit(request), query.get("before"), _status(query.get("status")), query.get("model")
        )
        return _json({"jobs": [self._job(job, key) for job in page.items], "next": page.next})

    async def _admit(self, request: Request, key: Key) -> Admitted:
        self._check_running()
        if "dry_run" in request.query_params:
            _refuse_fields([FieldError("dry_run", "this version cannot do that yet; no job was made")])
        idempotency_key = _idempotency_key(request)
        reading = orders.read(await _body(request))
        admission = Admission(
            key.account,
            key.id,
            reading.order,
            self.catalogue.price(reading.order),
            idempotency_key,
            reading.fingerprint,
            tuple({reference.ref for reference in reading.references if is_asset(reference.ref)}),
        )
        earlier = await self.store.replay(admission) if idempotency_key is not None else None
        if earlier is not None:
            return Admitted(earlier, replayed=True)
        await self._check(key, reading.order, reading.references)
        return await self.store.admit(admission)

    async def _check(self, key: Key, order: Order, references: Sequence[Reference]) -> None:
        """What about an order depends on this installation and account. Raises InvalidRequest, ProviderUnavailable."""
        faults = [fault for reference in references if (fault := await self._media_fault(key, reference))]
        faults += self.catalogue.provider(order.model).refuse(order)
        if faults:
            _refuse_fields(faults)
        await self.catalogue.check_available(order.model)

    async def _media_fault(self, key: Key, reference: Reference) -> FieldError | None:
        if not is_asset(reference.ref):
            try:
                await check_public(reference.ref)
            except NotPublic as error:
                return FieldError(reference.field, f"neither an asset's id nor a public https URL: {error}")
            return None
        asset = await self.store.asset(key.account, reference.ref)
        if asset is None:
            return FieldError(reference.field, f"there is no asset {reference.ref}")
        if kind_of(asset.type) not in reference.kinds:
            wanted = " or ".join(sorted(reference.kinds))
            return FieldError(reference.field, f"{reference.ref} is {asset.type}; this field takes {wanted}")
        return None

    # --- a job ---

    async def job(self, request: Request) -> Response:
        """GET: the job now. DELETE: forget it, its events and outputs."""
        key = await self.auth.key(request)
        if request.method == "DELETE":
            return await self._delete(request, key)
        return _json(self._job(await self._found(request, key), key))

    async def _delete(self, request: Request, key: Key) -> Response:
        job = await self._found(request, key)
        for blob in await self.store.delete_job(key.account, job.id) or ():
            await self.blobs.delete(blob)
        return Response(status_code=204)

    async def cancel(self, request: Request) -> Response:
        """Ask for a job's end: a request, which the job's own end may overtake."""
        key = await self.auth.key(request)
        job = await self._found(request, key)
        if job.status.final:
            raise Conflict(f"{job.id} is over: it is {job.status}.")
        return _json(self._job(await self.store.request_cancel(key.account, job.id) or job, key), 202)

    async def events(self, request: Request) -> Response:
        """The feed: replay, then live, closing after the final event; 204 for who has it already."""
        try:
            self._check_running()
            key = await self.auth.key_or_link(request)
            job = await self._found(request, key)
        except Unavailable as error:
            # EventSource gives up for good on any status but 200, and this will pass.
            return BrokenOff(error.message)
        after = _last_event_id(request)
        if job.status.final and after == job.event:
            return Response(status_code=204)
        return self._feed(job, after, {})

    async def content(self, request: Request) -> Response:
        """Output n: our bytes, the provider's relayed, or a redirect to where they are now."""
        key = await self.auth.key_or_link(request)
        job = await self._found(request, key)
        if not job.status.final:
            raise Conflict(f"{job.id} is not over: there is no content yet.")
        n = _output_number(request.path_params.get("n", "0"))
        if n >= len(job.outputs) or job.outputs[n].failed:
            raise NotFound(f"{job.id} has no output {n}." + (f" {job.message}" if job.message else ""))
        output = job.outputs[n]
        if output.blob:
            return await media.stored(request, self.blobs, output.blob, f"{job.id}-{n}", output.type)
        provider = self.catalogue.provider(job.model)
        try:
            source = await provider.content(job.ticket or {}, output, n)
        except ReadFailed as error:
            raise UpstreamFailed(f"The provider does not say where the content is: {error.message}") from None
        if self.relay or source.keyed:
            return await media.relayed(
                request, self.fetcher, provider, source, name=f"{job.id}-{n}", media_type=output.type
            )
        return media.redirect(source.url)

    def _check_running(self) -> None:
        if self.feed.stopping:
            raise Unavailable("The server is stopping.")

    async def _found(self, request: Request, key: Key) -> Job:
        job_id = request.path_params["job"]
        job = await self.store.job(key.account, job_id)
        if job is None:
            raise NotFound(f"There is no job {job_id[:100]}.")
        return job

    def _feed(self, job: Job, after: int, headers: Mapping[str, str]) -> Response:
        # An id from the future, or of some other stream, is answered from the beginning.
        cursor = after if after <= job.event else 0
        return FeedResponse(self.feed, job.id, known=job.event, after=cursor, heartbeat=self.heartbeat, headers=headers)

    def _job(self, job: Job, key: Key) -> dict[str, Any]:
        outputs = [output.as_json(self.links.to_output(job.id, output, key.id)) for output in job.outputs]
        path = f"/api/jobs/{job.id}"
        shown = {
            "id": job.id,
            "model": job.model,
            "status": job.status,
            "event": job.event,
            "detail": job.detail,
            "progress": job.progress,
            "url": next((output["url"] for output in outputs if "url" in output), None),
            "outputs": outputs or None,
            "message": job.message,
            "code": job.code,
            "tokens": job.tokens,
            "refunded": job.refunded,
            "metadata": job.order.metadata,
            "created_at": rfc3339(job.created_at),
            "updated_at": rfc3339(job.updated_at),
            "order": job.order.as_json(),
            "links": {
                "self": self.links.absolute(path),
                "events": self.links.sign(f"{path}/events", key.id),
                "content": self.links.sign(f"{path}/content", key.id),
            },
        }
        return {name: value for name, value in shown.items() if value is not None}

    # --- assets ---

    async def add_asset(self, request: Request) -> Response:
        """Take in a file: multipart `file`, or JSON `{"url"}`."""
        key = await self.auth.key(request)
        asset_id = new_id("asset")
        blob = f"assets/{asset_id}"
        if request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
            media_type, size = await self._upload(request, blob)
        else:
            media_type, size = await self._fetch(await _body(request), blob)
        asset = Asset(asset_id, key.account, media_type, size, blob, self.clock.now())
        await self.store.add_asset(asset)
        return _json(self._asset(asset, key), 201)

    async def _upload(self, request: Request, blob: str) -> tuple[str, int]:
        limit = self.asset_limit
        parser = MultiPartParser(
            request.headers, _limited(request, limit + _MULTIPART_ROOM), max_files=1, max_fields=16
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise BadRequest(f"The multipart body cannot be read: {error.message}") from None
        try:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                _refuse_fields([FieldError("file", "send the file as the multipart field `file`")])
            return await self._keep(file, blob)
        finally:
            await form.close()

    async def _keep(self, file: UploadFile, blob: str) -> tuple[str, int]:
        size = file.size or 0
        if size > self.asset_limit:
            raise TooLarge(f"The file has {size} bytes; at most {self.asset_limit} are taken.")
        media_type = _known_type(await file.read(512))
        await file.seek(0)
        await self.blobs.put(blob, _chunks(file))
        return media_type, size

    async def _fetch(self, body: bytes, blob: str) -> tuple[str, int]:
        url = _url(body)
        try:
            await check_public(url)
            fetched = await self.fetcher.read(url, self.asset_limit)
        except (NotPublic, FetchFailed) as error:
            _refuse_fields([FieldError("url", str(error))])
        if fetched.type is None:
            _known_type(fetched.data[:512])
        await self.blobs.put(blob, fetched.data)
        return fetched.type or "", len(fetched.data)

    async def asset(self, request: Request) -> Response:
        """GET: the asset. DELETE: forget it and its bytes."""
        key = await self.auth.key(request)
        asset_id = request.path_params["asset"]
        if request.method != "DELETE":
            return _json(self._asset(await self._own_asset(key, asset_id), key))
        asset = await self.store.delete_asset(key.account, asset_id)
        if asset is None:
            raise NotFound(f"There is no asset {asset_id[:100]}.")
        await self.blobs.delete(asset.blob)
        return Response(status_code=204)

    async def asset_content(self, request: Request) -> Response:
        """The asset's bytes."""
        key = await self.auth.key_or_link(request)
        asset = await self._own_asset(key, request.path_params["asset"])
        return await media.stored(request, self.blobs, asset.blob, asset.id, asset.type)

    async def _own_asset(self, key: Key, asset_id: str) -> Asset:
        asset = await self.store.asset(key.account, asset_id)
        if asset is None:
            raise NotFound(f"There is no asset {asset_id[:100]}.")
        return asset

    def _asset(self, asset: Asset, key: Key) -> dict[str, Any]:
        return {
            "id": asset.id,
            "type": asset.type,
            "size": asset.size,
            "url": self.links.sign(f"/api/assets/{asset.id}/content", key.id),
            "created_at": rfc3339(asset.created_at),
        }


def _route(method: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(path, endpoint, methods=[method])


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # Answers hold balances and Links: no cache may keep them.
    own = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return Response(orjson.dumps(content), status, own | dict(headers or {}))


def _admitted_headers(admitted: Admitted) -> dict[str, str]:
    replayed = {"Idempotency-Replayed": "true"} if admitted.replayed else {}
    return {"Location": f"/api/jobs/{admitted.job.id}"} | replayed


def _refuse_fields(faults: Sequence[FieldError]) -> NoReturn:
    raise InvalidRequest("; ".join(f"{fault.field}: {fault.message}" for fault in faults[:5]), faults)


# --- reading requests ---


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises TooLarge as soon as it is known to be longer than `limit` bytes."""
    announced = request.headers.get("Content-Length", "")
    size = int(announced) if announced.isdigit() else 0
    _check_size(size, limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        _check_size(size, limit)
        yield chunk


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"The body is longer than {limit} bytes.")


async def _body(request: Request) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, _BODY_LIMIT)])


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


def _last_event_id(request: Request) -> int:
    """The id of the last event the client has; 0 for none, and for what is no number of ours."""
    text = request.headers.get("Last-Event-ID") or request.query_params.get("lastEventId") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _output_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise NotFound("Outputs are numbered 0, 1, 2 ...")
    return int(text)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise BadRequest("Idempotency-Key takes 1 to 255 printable characters.")
    return key


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(_PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= _LONGEST_PAGE):
        _refuse_fields([FieldError("limit", f"a whole number from 1 to {_LONGEST_PAGE}")])
    return int(text)


def _status(text: str | None) -> Status | None:
    if not text:
        return None
    if text not in set(Status):
        _refuse_fields([FieldError("status", f"one of {', '.join(Status)}")])
    return Status(text)


def _url(body: bytes) -> str:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadRequest('Send a file as multipart `file`, or JSON: {"url": "https://..."}.') from None
    url = parsed.get("url") if isinstance(parsed, dict) else None
    if not isinstance(url, str):
        _refuse_fields([FieldError("url", "a public https URL")])
    return url


def _known_type(head: bytes) -> str:
    media_type = sniff(head)
    if media_type is None:
        raise UnsupportedType("The bytes are no image (JPEG, PNG, GIF, WebP), video or audio of a known type.")
    return media_type
