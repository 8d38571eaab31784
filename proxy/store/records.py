"""A job as the backends keep it: one JSON object, whose fields are the job's own."""

from dataclasses import fields

import orjson

from proxy.job import Job, Order, Output, Status


def dump(job: Job) -> bytes:
    """Write a job's record; `load` reads it back."""
    record = {field.name: getattr(job, field.name) for field in fields(job)}
    record["outputs"] = [output.as_record() for output in job.outputs]
    return orjson.dumps(record, default=dict)  # `default`: a record's mappings need not be dictionaries


def load(data: bytes) -> Job:
    """Read what `dump` wrote."""
    record = orjson.loads(data)
    record["order"] = Order(**record["order"])
    record["status"] = Status(record["status"])
    record["outputs"] = tuple(Output.from_record(output) for output in record["outputs"])
    return Job(**record)
