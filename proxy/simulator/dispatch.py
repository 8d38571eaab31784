"""The one place every request passes: counted, read, recorded, its fault taken, its key checked, answered.

Providers know nothing of faults and counters; a fault asked for by a prompt's word becomes the same `Fault` here
that a test arms by a call.
"""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from .delivery import Exchange, deliver, page
from .faults import STATUSES, Fault, Kind
from .files import Files
from .messages import Answer, Operation, Received, Refused, Role, receive, unread
from .prompt_faults import PromptFault, words_in
from .provider import Provider
from .state import Job, State

REFUSING_WORDS: Mapping[PromptFault, Kind] = {
    PromptFault.SERVER_ERROR: Kind.SERVER_ERROR,
    PromptFault.REJECT: Kind.REJECT,
    PromptFault.CREDITS: Kind.CREDITS,
}
ASKS_TO_WAIT = frozenset({Kind.TOO_MANY, Kind.UNAVAILABLE})
POLL_THAT_IS_CUT = 2


class Dispatcher:
    """Serves the operations of one provider, or of the media files."""

    def __init__(self, state: State, owner: Provider | Files) -> None:
        self.state = state
        self.owner = owner

    def served(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The operation as aiohttp wants a handler."""

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._serve(operation, request)

        return handler

    async def _serve(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        self.state.calls[operation.name] += 1
        closed = self.state.faults.take_unread(unread(request, operation.name))
        if closed is not None:
            self.state.requests.append(unread(request, operation.name))
            return Exchange(request, web.Response(), self.state).abort()
        received = await receive(request, operation.name)
        self.state.requests.append(received)
        job = self._job(operation, received)
        fault = self.state.faults.take(received, job.prompt if job else "")
        if fault is None and self._knows_the_key(received):
            fault = self._asked_by_words(operation, received, job)
        if fault is not None and fault.kind is Kind.RESET:
            return Exchange(request, web.Response(), self.state).abort()
        if fault is not None and fault.kind is Kind.SLOW:
            await self.state.pause(fault.seconds)
        instead = self._instead(fault, request) if fault else None
        answer = instead or await self._answer(operation, received)
        return await deliver(Exchange(request, answer, self.state, fault))

    def _job(self, operation: Operation, received: Received) -> Job | None:
        job = self.owner.job_of(received) if isinstance(self.owner, Provider) else None
        if job is not None and operation.role is Role.CHECK:
            self.state.polls[job.provider, job.id] += 1
        return job

    def _knows_the_key(self, received: Received) -> bool:
        if isinstance(self.owner, Files):
            return True
        return self.owner.credential(received) == self.state.keys.get(self.owner.name)

    async def _answer(self, operation: Operation, received: Received) -> Answer:
        if not self._knows_the_key(received):
            return self.owner.error(401)
        try:
            answer = await operation.handler(received)
        except Refused as refused:
            return refused.response
        if operation.role.paid:
            self.state.submits[self.owner.name] += 1
        return answer

    def _instead(self, fault: Fault, request: web.Request) -> web.Response | None:
        """What is said in the provider's place, without it doing anything."""
        if fault.kind is Kind.BAD_GATEWAY_PAGE:
            return page(502, "502 Bad Gateway")
        if fault.kind is Kind.HTML:
            return page(200, "Just a moment...")
        if fault.kind is Kind.REDIRECT:
            return self._redirect(request)
        if fault.kind in {Kind.REJECT, Kind.CREDITS} and isinstance(self.owner, Provider):
            return self.owner.rejected() if fault.kind is Kind.REJECT else self.owner.no_credit()
        if fault.kind not in STATUSES:
            return None
        response = self.owner.error(STATUSES[fault.kind])
        if fault.kind in ASKS_TO_WAIT:
            response.headers["Retry-After"] = str(fault.retry_after)
        return response

    def _redirect(self, request: web.Request) -> web.Response:
        """To the same server by another name: another origin, which must not be shown a key."""
        elsewhere = self.state.origin.replace("127.0.0.1", "localhost")
        return web.Response(status=307, headers={"Location": f"{elsewhere}/moved{request.rel_url}"})

    def _asked_by_words(self, operation: Operation, received: Received, job: Job | None) -> Fault | None:
        kind: Kind | None = None
        if operation.role.paid:
            kind = self._asked_of_a_submit(operation, received)
        elif operation.role is Role.CHECK and job is not None:
            kind = self._asked_of_a_poll(job)
        return Fault(operation.name, kind) if kind else None

    def _asked_of_a_submit(self, operation: Operation, received: Received) -> Kind | None:
        words = words_in(received.text)
        if PromptFault.TOO_MANY in words and self._first_time(received):
            return Kind.TOO_MANY
        if PromptFault.CUT in words and operation.role is Role.STREAM:
            return Kind.CUT
        return next((kind for word, kind in REFUSING_WORDS.items() if word in words), None)

    def _asked_of_a_poll(self, job: Job) -> Kind | None:
        poll = self.state.polls[job.provider, job.id]
        if PromptFault.FLAKY in job.words and poll % 2 == 0:
            return Kind.BAD_GATEWAY_PAGE
        return Kind.CUT if PromptFault.CUT in job.words and poll == POLL_THAT_IS_CUT else None

    def _first_time(self, received: Received) -> bool:
        """Whether this submit was not refused just now; a third one is a first again, so that a demo can repeat."""
        this = (self.owner.name, received.text)
        if this in self.state.refused_once:
            self.state.refused_once.remove(this)
            return False
        self.state.refused_once.add(this)
        return True
