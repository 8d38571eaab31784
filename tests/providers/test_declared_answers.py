"""Answers of any shape to the polls of a provider file."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.clock import SystemClock
from proxy.core.job import Status
from proxy.providers.declared_answers import Answers
from proxy.providers.declared_errors import FileDialect
from proxy.upstream.answers import Answer, ReadFailed
from proxy.upstream.client import Upstream
from proxy.upstream.requests import dump_json
from tests.support.provider_file import ACME, parse

FILE = parse(ACME.read_text()).file
DIALECT = FileDialect(table=FILE.errors)
ANSWERS = Answers(FILE, DIALECT, Upstream(FILE.base_url, DIALECT, SystemClock(), rate=1))

NAMES = st.sampled_from(["code", "data", "task_status", "error", "task_result", "videos", "url", "percent", "message"])
WORDS = st.sampled_from(["succeed", "failed", "processing", "lost", "https://example.com/v.mp4", "data:,x", "1302", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5))


@given(body=DOCUMENTS, status=st.sampled_from([200, 202, 400, 404, 429, 500]))
@settings(max_examples=100, deadline=None)
def test_an_answer_of_any_shape_is_an_update_or_a_failed_read(body: Any, status: int) -> None:
    answer = Answer(status, {}, dump_json(body), 0.0)
    try:
        ANSWERS.check(answer)
        update = ANSWERS.update(FILE.model[0], answer, None)
    except ReadFailed:
        return
    assert (update.status is Status.ERROR) == (update.error is not None)
    assert (update.status is Status.COMPLETED) == bool(update.outputs)
