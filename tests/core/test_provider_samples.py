"""Answers made of a file's tables: the adapter reads them as what they are."""

from pathlib import Path

import orjson
import pytest

from proxy.core import provider_samples as samples
from proxy.core.clock import SystemClock
from proxy.core.errors import JobError, OutcomeUnknown
from proxy.core.job import Status
from proxy.core.provider_file import FileText, read
from proxy.core.provider_samples import Sample
from proxy.core.provider_tables import ProviderFile
from proxy.providers.declared_answers import Answers
from proxy.providers.declared_errors import FileDialect
from proxy.providers.declared_files import BUNDLED, bundled
from proxy.upstream.answers import Answer, NotTaken
from proxy.upstream.client import Upstream
from tests.support.provider_file import ACME, parse, short

URLS = ["https://example.com/1.mp4"]
BOOLEAN = short(
    poll='path = "/j/{+id}"\nstatus = "done"\nwords = { false = "running", true = "done" }\nabsent = "running"\n'
    'failed = "error"',
    result='output = "videos[].uri"\nblocked = "filtered"\nblocked_message = "reasons[0]"',
    errors='code = "error.status"\nmessage = "error.message"\nrules = [{ http = 429, means = "busy", paid = "no" }]',
)
ELSEWHERE = short(
    submit='path = "/j"\nid = "request_id"\nkeep = { at = "status_url" }',
    poll='path = "{at}"\nstatus = "status"\nwords = { WAIT = "queued", DONE = "done" }\nhttp = { 202 = "running" }',
    result='path = "/j/{id}"\noutput = "video.url"\nhttp_failure = [422]',
    errors='code = "detail[0].type"\nmessage = "detail[0].msg"\n'
    'rules = [{ code = "nsfw", means = "blocked", paid = "no" }, { http = 500, means = "upstream_failed" }]',
)
INSIDE = short(
    result='decode = "data.json"\noutput = "urls"',
    errors='code = "base.code"\nmessage = "base.text"\nsuccess = [0]\n'
    'rules = [{ code = 1008, means = "upstream_credits", paid = "no" }]',
)
PRESENT = short(poll='path = "/j/{id}"\nstatus = "response"\npresent = "done"\nabsent = "running"\nfailed = "error"')
FILES: dict[str, ProviderFile] = {
    "boolean": parse(BOOLEAN).file,
    "elsewhere": parse(ELSEWHERE).file,
    "inside": parse(INSIDE).file,
    "present": parse(PRESENT).file,
    **{path.stem: read(FileText.at(path), bundled).file for path in (ACME, *sorted(Path(BUNDLED).glob("*.toml")))},
}
every_file = pytest.mark.parametrize("file", FILES.values(), ids=FILES)


def reader(file: ProviderFile) -> Answers:
    dialect = FileDialect(table=file.errors)
    return Answers(file, dialect, Upstream(file.base_url, dialect, SystemClock(), rate=1))


def answer(sample: Sample) -> Answer:
    return Answer(sample.status, {}, orjson.dumps(sample.body), 0.0)


@every_file
def test_a_ticket_has_what_the_polls_need(file: ProviderFile) -> None:
    keep = {name: f"/{name}" for name in file.submit.keep}
    ticket = reader(file).ticket("one", answer(samples.submit_answer(file, "job-1", keep)))
    assert ticket == {"model": "one", "id": "job-1", **keep}


@every_file
def test_each_step_of_a_job_is_read_as_its_state(file: ProviderFile) -> None:
    shown = samples.steps(file.poll)
    assert shown[-1].state == "done"
    for step in shown:
        found = answer(samples.poll_answer(file, step, progress=50))
        reader(file).check(found)
        standing = reader(file).standing(found)
        assert (standing.state, standing.progress) == (step.state, 50 if file.poll.progress else None)


@every_file
def test_a_result_has_its_outputs(file: ProviderFile) -> None:
    for model in file.model:
        found = answer(samples.result_answer(file, model, URLS, samples.steps(file.poll)[-1]))
        reader(file).check(found)
        assert reader(file).urls(model, found) == URLS
        assert reader(file).result(model, found, None).status is Status.COMPLETED


@every_file
def test_a_failed_job_gives_its_reason(file: ProviderFile) -> None:
    polled, result = answer(samples.failure_answer(file, "It broke.")), samples.failed_result_answer(file, "It broke.")
    reader(file).check(polled)
    update = reader(file).update(file.model[0], polled, answer(result) if result else None)
    assert update.error is not None
    assert "It broke." in update.error.message


BLOCKED = {name: found for name, file in FILES.items() if (found := samples.blocked_answer(file, "Not this."))}


@pytest.mark.parametrize("name", BLOCKED)
def test_a_blocked_job_is_rejected(name: str) -> None:
    update = reader(FILES[name]).update(FILES[name].model[0], answer(BLOCKED[name]), None)
    assert update.error is not None
    assert update.error.code == "upstream_rejected"


def test_a_result_that_failed_has_the_code_of_its_rule() -> None:
    file = FILES["elsewhere"]
    result = samples.failed_result_answer(file, "Not this.", "nsfw")
    assert result is not None
    update = reader(file).update(file.model[0], answer(samples.failure_answer(file, "Not this.")), answer(result))
    assert update.error is not None
    assert (update.error.code, result.status) == ("upstream_rejected", 422)


@every_file
def test_a_refusal_is_read_by_its_rule(file: ProviderFile) -> None:
    for rule in file.errors.rules:
        with pytest.raises((JobError, NotTaken)) as refused:
            reader(file).ticket("one", answer(samples.refusal_answer(file, rule, "No.")))
        assert isinstance(refused.value, OutcomeUnknown) == (rule.paid != "no")
        assert isinstance(refused.value, NotTaken) == (rule.means == "busy")
        assert "No." in str(refused.value)
