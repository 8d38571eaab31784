"""Request dispatcher: counts, reads and records each request, applies a fault, checks the key and calls the provider.

Providers know nothing about faults and counters. A word in a prompt becomes the same `Fault` that a test can arm.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from .delivery import Exchange, deliver, html_page
from .faults import STATUSES, Fault, Kind
from .files import Files
from .messages import Answer, Errors, Operation, ReceivedRequest, Refusal, Role, receive, without_body
from .prompt_faults import PromptFault, words_in
from .provider import Provider
from .state import Job, State

REFUSING_WORDS: Mapping[PromptFault, Kind] = {
    PromptFault.SERVER_ERROR: Kind.SERVER_ERROR,
    PromptFault.REJECT: Kind.REJECT,
    PromptFault.CREDITS: Kind.CREDITS,
}
"""Words in a prompt that make the provider refuse the submit."""
RETRY_AFTER_KINDS = frozenset({Kind.TOO_MANY, Kind.UNAVAILABLE})
"""Kinds whose response has a `Retry-After` header."""

CUT_POLL = 2
"""Number of the poll whose response `[cut]` cuts."""


class Dispatcher:
    """Serves the operations of one provider, or of the media files."""

    def __init__(self, state: State, owner: Provider | Files) -> None:
        self.state = state
        self.owner = owner

    def handler(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return aiohttp's request handler for an operation."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._serve(operation, request)

        return handle

    async def _serve(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        self.state.calls[operation.name] += 1
        reset = self.state.faults.take_before_read(without_body(request, operation.name))
        if reset is not None:
            self.state.requests.append(without_body(request, operation.name))
            return Exchange(request, web.Response(), self.state).abort()
        received = await receive(request, operation.name)
        self.state.requests.append(received)
        job = self._job(operation, received)
        fault = self.state.faults.take(received, job.prompt if job else "")
        if fault is None and self._is_authorized(received):
            fault = self._prompt_fault(operation, received, job)
        if fault is not None and fault.kind is Kind.RESET:
            return Exchange(request, web.Response(), self.state).abort()
        if fault is not None and fault.kind is Kind.SLOW:
            await self.state.pause(fault.seconds)
        replacement = self._replacement(operation, fault, request) if fault else None
        answer = replacement or await self._answer(operation, received)
        return await deliver(Exchange(request, answer, self.state, fault))

    def _job(self, operation: Operation, received: ReceivedRequest) -> Job | None:
        job = self.owner.job_of(received) if isinstance(self.owner, Provider) else None
        if job is not None and operation.role is Role.CHECK:
            self.state.polls[job.provider, job.id] += 1
        return job

    def _is_authorized(self, received: ReceivedRequest) -> bool:
        if isinstance(self.owner, Files):
            return True
        return self.owner.credential(received) == self.state.keys.get(self.owner.name)

    async def _answer(self, operation: Operation, received: ReceivedRequest) -> Answer:
        if not self._is_authorized(received):
            return self._errors(operation).error(401)
        try:
            answer = await operation.handler(received)
        except Refusal as refusal:
            return refusal.response
        if operation.role.is_paid:
            self.state.submits[self.owner.name] += 1
        return answer

    def _errors(self, operation: Operation) -> Errors | Files:
        return operation.errors or self.owner

    def _replacement(self, operation: Operation, fault: Fault, request: web.Request) -> web.Response | None:
        """Return the response that replaces the provider's, or None. The provider is then not called."""
        if fault.kind is Kind.BAD_GATEWAY_PAGE:
            return html_page(502, "502 Bad Gateway")
        if fault.kind is Kind.HTML:
            return html_page(200, "Just a moment...")
        if fault.kind is Kind.REDIRECT:
            return self._redirect(request)
        errors = self._errors(operation)
        if fault.kind in {Kind.REJECT, Kind.CREDITS} and not isinstance(errors, Files):
            return errors.reject() if fault.kind is Kind.REJECT else errors.no_credit()
        if fault.kind not in STATUSES:
            return None
        response = errors.error(STATUSES[fault.kind])
        if fault.kind in RETRY_AFTER_KINDS:
            response.headers["Retry-After"] = str(fault.retry_after)
        return response

    def _redirect(self, request: web.Request) -> web.Response:
        """Redirect to this server under another host name. That is another origin, which must not receive the key."""
        other_origin = self.state.origin.replace("127.0.0.1", "localhost")
        return web.Response(status=307, headers={"Location": f"{other_origin}/moved{request.rel_url}"})

    def _prompt_fault(self, operation: Operation, received: ReceivedRequest, job: Job | None) -> Fault | None:
        kind: Kind | None = None
        if operation.role.is_paid:
            kind = self._submit_fault(operation, received)
        elif operation.role is Role.CHECK and job is not None:
            kind = self._poll_fault(job)
        return Fault(operation.name, kind) if kind else None

    def _submit_fault(self, operation: Operation, received: ReceivedRequest) -> Kind | None:
        words = words_in(received.text)
        if PromptFault.TOO_MANY in words and self._is_first_submit(received):
            return Kind.TOO_MANY
        if PromptFault.CUT in words and operation.role is Role.STREAM:
            return Kind.CUT
        return next((kind for word, kind in REFUSING_WORDS.items() if word in words), None)

    def _poll_fault(self, job: Job) -> Kind | None:
        poll = self.state.polls[job.provider, job.id]
        if PromptFault.FLAKY in job.fault_words and poll % 2 == 0:
            return Kind.BAD_GATEWAY_PAGE
        return Kind.CUT if PromptFault.CUT in job.fault_words and poll == CUT_POLL else None

    def _is_first_submit(self, received: ReceivedRequest) -> bool:
        """Return True unless the previous submit of this text was refused.

        Every second submit is accepted, so that a demo can be repeated.
        """
        submit = (self.owner.name, received.text)
        if submit in self.state.refused_submits:
            self.state.refused_submits.remove(submit)
            return False
        self.state.refused_submits.add(submit)
        return True
