"""JSON encoding of a job, in which both backends keep it: one object with the fields of `Job`."""

import orjson

from proxy.core.job import Job, Order, Output, Status


def dump(job: Job) -> bytes:
    """Return the job as JSON. `load` reads it."""
    return orjson.dumps(job, default=dict)  # `default`: the mappings of a job need not be dictionaries


def load(data: bytes | str) -> Job:
    """Return the job that `dump` wrote."""
    record = orjson.loads(data)
    record["order"] = Order(**record["order"])
    record["status"] = Status(record["status"])
    record["outputs"] = tuple(Output.from_record(output) for output in record["outputs"])
    return Job(**record)
