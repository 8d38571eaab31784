"""The proof that all nodes keep their bytes in one place: a mark that the first has left there, and the others find.

A node that kept assets and results in a directory of its own would be asked for what others have, and give a 404.
"""

from typing import Final

from proxy.core.job import new_id
from proxy.core.settings import BadSetting
from proxy.store.blobs import Blobs
from proxy.store.contract import Store

_NAME: Final = "blobs"


async def prove_shared(store: Store, blobs: Blobs) -> None:
    """See that the mark of the nodes that share the store is among these bytes. Raises BadSetting where it is not."""
    own = new_id("cluster")
    # Stored before it is proposed: the mark that is agreed on is there.
    await blobs.put(own, b"The nodes that share a store know by this file that they share this place, too.\n")
    agreed = (await store.get_or_set(_NAME, own.encode())).decode()
    if agreed == own:
        return
    await blobs.delete(own)
    try:
        await blobs.size(agreed)
    except FileNotFoundError:
        raise BadSetting(
            f"POLLCAST_ASSETS: {agreed} is not there, by which nodes on one Redis know that they share their bytes: "
            "give all of them the same object store or shared directory."
        ) from None
