"""Admission of orders: checks an order, charges for it and makes its job, or finds the job that it made before."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from proxy.api import orders
from proxy.api.catalogue import Catalogue
from proxy.api.limits import AccountLimits
from proxy.api.request import BodyReader, idempotency_key, refuse_fields
from proxy.core.errors import FieldError, RateLimited, RequestError
from proxy.core.job import Order
from proxy.core.media_types import kind_of
from proxy.providers.base import MediaTransfer
from proxy.providers.fields import Reference, is_asset
from proxy.store.contract import Store
from proxy.store.types import Admission, Admitted, Asset, Key
from proxy.telemetry.metrics import Metrics
from proxy.upstream.ssrf import NotPublic, check_public

log = logging.getLogger(__name__)

_MAX_LOOKUPS: Final = 4
"""Maximum number of concurrent DNS lookups for the URLs of one order."""


@dataclass(frozen=True, slots=True)
class OrderChecks:
    """Checks what depends on this installation and on the account: media, and the provider's own rules.

    `max_inputs` is the maximum size of an order's assets together, in bytes.
    """

    store: Store
    catalogue: Catalogue
    max_inputs: int

    async def check(self, account: str, order: Order, references: Sequence[Reference]) -> None:
        """Raise InvalidRequest with the fields that this installation or account cannot serve."""
        lookups = asyncio.Semaphore(_MAX_LOOKUPS)
        refs = list(dict.fromkeys(reference.ref for reference in references))
        found = await asyncio.gather(*(self._look_up(account, ref, lookups) for ref in refs))
        media = dict(zip(refs, found, strict=True))
        media_errors = [_media_error(reference, media[reference.ref]) for reference in references]
        provider = self.catalogue.provider(order.model)
        assets = {ref: asset for ref, asset in media.items() if isinstance(asset, Asset)}
        faults = [*filter(None, media_errors), *provider.validate(order, assets)]
        faults = faults or self._size_error(provider.sent_model(order).media, references, assets)
        if faults:
            refuse_fields(faults)

    async def _look_up(self, account: str, ref: str, lookups: asyncio.Semaphore) -> Asset | str | None:
        """Return the asset of that id, an error message, or None for a URL that may be fetched."""
        if is_asset(ref):
            return await self.store.asset(account, ref) or f"there is no asset {ref}"
        try:
            async with lookups:
                await check_public(ref)
        except NotPublic as error:
            return f"must be an asset id or a public https URL: {error}"
        return None

    def _size_error(
        self, transfer: MediaTransfer, references: Sequence[Reference], assets: Mapping[str, Asset]
    ) -> list[FieldError]:
        """Return the error of the reference at which the order's assets exceed the limit together.

        A linked asset does not count, because this server never reads it.
        """
        size, counted = 0, set[str]()
        for reference in references if transfer != "linked" else ():
            asset = assets.get(reference.ref)
            if asset is not None and (transfer == "inline" or reference.ref not in counted):
                size += asset.size
            counted.add(reference.ref)
            if size > self.max_inputs:
                return [FieldError(reference.field, f"the order's inputs together exceed {self.max_inputs} bytes")]
        return []


@dataclass(frozen=True, slots=True)
class Admissions:
    """Admits orders: each makes one job, or returns the job that its idempotency key made before."""

    store: Store
    catalogue: Catalogue
    limits: AccountLimits
    metrics: Metrics
    checks: OrderChecks
    bodies: BodyReader

    async def admit(self, request: Request, key: Key, refusal: RateLimited | None) -> Admitted:
        """Return the order's new job, or the job of its idempotency key.

        `refusal` is raised if the order is new. Other errors are those of the order, its body and the account.
        """
        repeated = idempotency_key(request)
        parsed = orders.parse(await self.bodies.read(request), self.catalogue.models)
        admission = self._admission(parsed, key, repeated)
        try:
            if refusal is not None:
                raise refusal
            return _log_admitted(await self._make_job(parsed, admission))
        except RequestError:
            # A repeated order gets its job, even if it would be refused as a new order.
            earlier = await self.store.replay(admission) if repeated is not None else None
            if earlier is None:
                raise
            return _log_admitted(Admitted(earlier, replayed=True))

    def _admission(self, parsed: orders.ParsedOrder, key: Key, repeated: str | None) -> Admission:
        return Admission(
            account=key.account,
            key=key.id,
            order=parsed.order,
            tokens=self.catalogue.price(parsed.order),
            idempotency_key=repeated,
            fingerprint=parsed.fingerprint,
            assets=tuple({reference.ref for reference in parsed.references if is_asset(reference.ref)}),
            queue=self.catalogue.provider(parsed.order.model).name,
            version=self.catalogue.registry.provider_of(parsed.order.model).version,
            max_jobs=self.limits.jobs,
            max_backlog=self.limits.backlog,
        )

    async def _make_job(self, parsed: orders.ParsedOrder, admission: Admission) -> Admitted:
        await self.checks.check(admission.account, parsed.order, parsed.references)
        await self.catalogue.check_available(parsed.order.model, admission.account)
        try:
            admitted = await self.store.admit(admission)
        except RateLimited:
            self.limits.count_refused_job()
            raise
        # A new job has a detail only if it waits in its account's backlog: its position there.
        if admitted.job.detail is not None and not admitted.replayed:
            self.metrics.queued.inc()
        return admitted


def _media_error(reference: Reference, found: Asset | str | None) -> FieldError | None:
    if isinstance(found, str):
        return FieldError(reference.field, found)
    if found is not None and kind_of(found.type) not in reference.kinds:
        kinds = " or ".join(sorted(reference.kinds))
        return FieldError(reference.field, f"{reference.ref} is {found.type}; this field takes {kinds}")
    return None


def _log_admitted(admitted: Admitted) -> Admitted:
    """Log which request made which job, and return the job."""
    job = admitted.job
    facts = {"job": job.id, "model": job.model, "account": job.account, "tokens": job.tokens}
    log.info("job replayed" if admitted.replayed else "job ordered", extra=facts)
    return admitted
