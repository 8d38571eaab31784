"""Answers in the shape of a provider file's tables: what a simulated provider sends.

They contain the values that the file reads, at the first path of each list, and nothing else. They show that the tables
fit together; only the file's examples show what the provider really answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.core.json_path import JsonPath
from proxy.core.provider_tables import ErrorRule, Keep, ModelTable, Poll, ProviderFile, State

_ORDER: Sequence[State] = ("queued", "running", "done")
"""The states of a job that succeeds, in their order."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer: its HTTP status and its JSON."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One state of a job, as its provider shows it: by a word, an HTTP status, or the absence of both."""

    state: State
    word: str | None = None
    http: int = 200


def steps(poll: Poll) -> list[Step]:
    """Return the steps of a job that succeeds: each word for queued, running and done, in the file's order."""
    named = [Step(state, word) for word, state in poll.words.items()]
    if poll.present is not None:
        named.append(Step(poll.present, "present"))
    if poll.absent is not None:
        named.append(Step(poll.absent))
    named += [Step(state, None, int(status)) for status, state in poll.http.items()]
    return [step for state in _ORDER for step in named if step.state == state]


def step_to(poll: Poll, state: State) -> Step | None:
    """Return the step that shows a state; None if the file has none for it."""
    found = next((word for word, meant in poll.words.items() if meant == state), None)
    return Step(state, found) if found is not None else None


def submit_answer(file: ProviderFile, identity: str, keep: Mapping[str, str] | None = None) -> Sample:
    """Return the answer to a submit: the job's id, and the values that the file keeps, as far as they are given."""
    return Sample(
        200, _join(_success(file), file.submit.id[0].build(identity), *_kept_values(file.submit.keep, keep or {}))
    )


def poll_answer(
    file: ProviderFile, step: Step, *, progress: float | None = None, keep: Mapping[str, str] | None = None
) -> Sample:
    """Return the answer to a poll without a result. `progress` is in percent."""
    poll = file.poll
    parts = [_success(file), *_kept_values(poll.keep, keep or {})]
    if step.word is not None:
        parts.append(poll.status[0].build(_value(step.word)))
    if progress is not None and poll.progress:
        parts.append(poll.progress[0].build(progress / 100 * poll.progress_scale))
    return Sample(step.http, _join(*parts))


def result_answer(file: ProviderFile, model: ModelTable, urls: Sequence[str], step: Step | None = None) -> Sample:
    """Return the answer that has the outputs: the last poll's, if the file has no further request for them."""
    found = file.result
    paths = model.output or found.output or found.video or found.image or found.audio or found.base64 or found.text
    document = _join(*(_at(paths[0], url, n) for n, url in enumerate(urls)))
    if found.decode is not None:
        document = found.decode.build(orjson.dumps(document).decode())
    base = _success(file) if found.path or step is None else poll_answer(file, step).body
    return Sample(200, _join(base, document))


def failure_answer(file: ProviderFile, message: str, code: str | int | None = None) -> Sample:
    """Return the answer to a poll of a job that has failed.

    A provider that says so only where the result is, answers like one whose job is done (`failed_result_answer`).
    """
    step = step_to(file.poll, "failed")
    if step is None and not file.poll.failed:
        return poll_answer(file, _done(file.poll))
    parts = [poll_answer(file, step or Step("failed")).body, *_error(file, message, code, last=True)]
    if not any(path.find(_join(*parts)) for path in file.poll.failed):
        parts += [path.build(message) for path in file.poll.failed[:1]]
    return Sample(200, _join(*parts))


def failed_result_answer(file: ProviderFile, message: str, code: str | int | None = None) -> Sample | None:
    """Return the answer in place of a result that says that the job has failed; None if there is none."""
    statuses = file.result.http_failure
    return Sample(statuses[0], _join(*_error(file, message, code))) if statuses else None


def blocked_answer(file: ProviderFile, message: str) -> Sample | None:
    """Return the answer to a poll of a job that was blocked; None if no such answer says so."""
    done = poll_answer(file, _done(file.poll)).body
    if (step := step_to(file.poll, "blocked")) is not None:
        return Sample(200, _join(poll_answer(file, step).body, *_error(file, message, None, last=True)))
    if file.poll.blocked:
        path, value = next(iter(file.poll.blocked.items()))
        return Sample(200, _join(done, path.build(value)))
    if file.result.blocked:
        reasons = [path.build(message) for path in file.result.blocked_message[:1]]
        return Sample(200, _join(done, file.result.blocked[0].build(1), *reasons))
    rule = next((rule for rule in file.errors.rules if rule.means == "blocked" and rule.code), None)
    fails = bool(file.poll.failed) or step_to(file.poll, "failed") is not None
    return failure_answer(file, message, rule.code[0]) if rule and fails else None


def refusal_answer(file: ProviderFile, rule: ErrorRule | None, message: str, status: int = 400) -> Sample:
    """Return the answer that a rule is about: its HTTP status and its code. Without a rule: `status`."""
    code = rule.code[0] if rule and rule.code else None
    usual = 200 if code is not None and file.errors.success and not (rule and rule.http) else status
    http = rule.http[0] if rule and rule.http else usual
    return Sample(http, _join(*_error(file, message, code)))


def _error(file: ProviderFile, message: str, code: str | int | None, *, last: bool = False) -> list[Any]:
    """Return the parts of an error. An error answer has the first paths; a failed job, with `last`, the last ones."""
    place = -1 if last else 0
    parts = [file.errors.message[place].build(message)] if file.errors.message else [{"message": message}]
    return [*parts, file.errors.code[place].build(code)] if code is not None and file.errors.code else parts


def _done(poll: Poll) -> Step:
    """Return the step of a job that is done."""
    return next(step for step in reversed(steps(poll)) if step.state == "done")


def _success(file: ProviderFile) -> Any:
    """Return the code of success, if the file has one."""
    return file.errors.code[0].build(file.errors.success[0]) if file.errors.success else {}


def _kept_values(keep: Keep, values: Mapping[str, str]) -> list[Any]:
    return [paths[0].build(values[name]) for name, paths in keep.items() if name in values]


def _value(word: str) -> object:
    """Return a word as the value that has it: booleans have the words `true` and `false`."""
    return {"true": True, "false": False}.get(word, word)


def _at(path: JsonPath, value: str, n: int) -> Any:
    """Return a document with a value at a path, as item `n` of its first list."""
    document = path.build(value)
    place = document
    while isinstance(place, dict):
        (name,) = place
        if isinstance(place[name], list):
            place[name] = [*[None] * n, *place[name]]
        place = place[name]
    return document


def _join(*documents: Any) -> Any:
    """Return documents as one: objects key by key, lists item by item, and of other values the last."""
    whole: Any = {}
    for document in documents:
        whole = _join_two(whole, document)
    return whole


def _join_two(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{name: _join_two(one.get(name), value) for name, value in other.items()}}
    if isinstance(one, list) and isinstance(other, list):
        longest = max(len(one), len(other))
        pairs = zip(one + [None] * (longest - len(one)), other + [None] * (longest - len(other)), strict=True)
        return [_join_two(left, right) for left, right in pairs]
    return one if other is None else other
