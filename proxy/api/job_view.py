"""A job as JSON, for the responses that show one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from proxy.api.eta import Eta
from proxy.core.clock import rfc3339
from proxy.core.job import Job
from proxy.core.links import Links
from proxy.store.types import Key


@dataclass(frozen=True, slots=True)
class JobView:
    """Writes a job as JSON: its record, an estimate of the remaining time, and Links signed with the caller's key.

    `last_polls` has the time of the newest poll of each job that runs on this node, in seconds since the epoch.
    """

    links: Links
    eta: Eta
    last_polls: Mapping[str, float]

    def location(self, job: Job, root_path: str) -> str:
        """Return the path of a job, below the public URL's path or else the ASGI server's `root_path`."""
        prefix = self.links.prefix or quote(root_path.rstrip("/"))
        return f"{prefix}/api/jobs/{job.id}"

    async def as_json(self, job: Job, key: Key) -> dict[str, Any]:
        """Return the job as JSON.

        A plain dict, because a page has up to 200 jobs and a model would validate each again. `openapi.shapes.Job`
        describes it, and the tests compare the two.
        """
        outputs = [output.as_json(self.links.to_output(job.id, output, key.id)) for output in job.outputs]
        path = f"/api/jobs/{job.id}"
        remaining = await self.eta.remaining(job)
        polled_at = None if job.status.final else self.last_polls.get(job.id)
        fields = {
            "id": job.id,
            "model": job.model,
            "status": job.status,
            "event": job.event,
            "detail": job.detail,
            "progress": job.progress,
            "eta": None if remaining is None else {"low": remaining[0], "high": remaining[1]},
            "polled_at": None if polled_at is None else rfc3339(polled_at),
            "url": next((output["url"] for output in outputs if "url" in output), None),
            "outputs": outputs or None,
            "message": job.message,
            "code": job.code,
            "finish_reason": job.finish_reason,
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
        return {name: value for name, value in fields.items() if value is not None}
