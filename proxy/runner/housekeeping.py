"""Bytes that belong to nobody: stored for an asset whose record a crash prevented, or left behind by its deletion.

An asset's bytes are stored before its record, and its record deleted before its bytes, so that a record never lacks its
bytes. What a crash leaves between the two is looked for now and then.
"""

import asyncio
import logging
import time
from typing import Final

from proxy.core.clock import ClockSteps
from proxy.core.errors import Unavailable
from proxy.store.blobs import Blobs
from proxy.store.contract import Store

log = logging.getLogger(__name__)

_PAUSE: Final = 6 * 3600.0
_YOUNG: Final = 3600.0
"""Seconds after which bytes without a record are nobody's: far longer than the step from one to the other."""
_SETTLING_PAUSE: Final = 60.0
"""Seconds between two looks whether the wall clock can be trusted, while it cannot."""


async def keep_sweeping(store: Store, blobs: Blobs, steps: ClockSteps, pause: float = _SETTLING_PAUSE) -> None:
    """Look for orphans ten minutes after the start, and every six hours, until cancelled.

    While the wall clock may be wrong nothing is deleted: a new upload would look old. It is checked every `pause`
    seconds.
    """
    while True:
        # The storage's own clock, which is the world's, has stamped them. It is read before the check of the clock.
        before = time.time() - _YOUNG - steps.forward(_YOUNG)
        if not steps.is_settled():
            await asyncio.sleep(pause)
            continue
        try:
            await sweep(store, blobs, before=before)
        except Unavailable as error:
            log.warning("Cannot look for orphaned assets now: %s", error.message)
        await asyncio.sleep(_PAUSE)


async def sweep(store: Store, blobs: Blobs, *, before: float) -> int:
    """Delete what was stored before that second and is no asset's; returns how many. Raises errors.Unavailable."""
    await blobs.drop_unfinished(before)
    # All names first: a listing that is read slowly while files go may break off.
    orphans = [name async for name in blobs.older("assets", before) if await _is_orphan(store, name)]
    for name in orphans:
        await blobs.delete(name)
    if orphans:
        log.info("Deleted the bytes of %d assets that were never recorded, or had been deleted.", len(orphans))
    return len(orphans)


async def _is_orphan(store: Store, name: str) -> bool:
    account, _, asset_id = name.removeprefix("assets/").partition("/")
    # Of an account that is not known here they may be another installation's.
    return await store.account(account) is not None and await store.asset(account, asset_id) is None
