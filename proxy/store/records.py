"""A job as the backends keep it: one JSON object, whose fields are the job's own."""

from dataclasses import fields
from operator import attrgetter
from typing import Final

import orjson

from proxy.job import Job, Order, Output, Status

_FIELDS: Final = tuple(field.name for field in fields(Job))
_VALUES: Final = attrgetter(*_FIELDS)


def dump(job: Job) -> bytes:
    """Write a job's record; `load` reads it back."""
    record = dict(zip(_FIELDS, _VALUES(job), strict=True))
    record["outputs"] = [output.as_record() for output in job.outputs]
    return orjson.dumps(record, default=dict)  # `default`: a record's mappings need not be dictionaries


def load(data: bytes | str) -> Job:
    """Read what `dump` wrote."""
    record = orjson.loads(data)
    record["order"] = Order(**record["order"])
    record["status"] = Status(record["status"])
    record["outputs"] = tuple(Output.from_record(output) for output in record["outputs"])
    return Job(**record)
