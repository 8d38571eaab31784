"""A job as the backends keep it: one JSON object, whose fields are the job's own."""

import orjson

from proxy.core.job import Job, Order, Output, Status


def dump(job: Job) -> bytes:
    """Write a job's record; `load` reads it back."""
    return orjson.dumps(job, default=dict)  # `default`: a record's mappings need not be dictionaries


def load(data: bytes | str) -> Job:
    """Read what `dump` wrote."""
    record = orjson.loads(data)
    record["order"] = Order(**record["order"])
    record["status"] = Status(record["status"])
    record["outputs"] = tuple(Output.from_record(output) for output in record["outputs"])
    return Job(**record)
