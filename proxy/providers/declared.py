"""The generic adapter: a provider as its file describes it (`core/provider_tables`).

The file says what to send and where the answers have what; this module sends and reads. A ticket has the model's name,
the provider's id, and what the file keeps of the answer to the submit. URLs in answers are polled only on the
provider's own hosts, because each request has the key.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from yarl import URL

from proxy.core import templates
from proxy.core.clock import Clock
from proxy.core.errors import UpstreamProtocol, UpstreamRejected
from proxy.core.job import Order, Output, Status, Ticket
from proxy.core.provider_file import ReadFile
from proxy.core.provider_rules import body_of, choice_key
from proxy.core.provider_tables import FieldTable, ModelTable, ProviderFile
from proxy.core.settings import ProviderSettings, is_loopback
from proxy.providers.base import Inputs, Model, Provider, Source, Update
from proxy.providers.declared_answers import Answers, kept_values
from proxy.providers.declared_errors import Ended, FileDialect
from proxy.providers.declared_models import make_model, settings_type
from proxy.providers.fields import is_asset
from proxy.upstream.answers import Answer, LastAnswers, ReadFailed, UnknownToProvider, UnreadableAnswer
from proxy.upstream.client import DEFAULT_OPTIONS, UpstreamOptions
from proxy.upstream.credentials import SignedHeader
from proxy.upstream.requests import File, Request

_INLINE_FORMS: Final = frozenset({"data", "base64", "part"})
"""Forms of a medium for which its bytes are read."""


@dataclass(frozen=True)
class DeclaredKind:
    """A provider of a file, before it has settings: what the registry holds."""

    read: ReadFile
    position: int = 100
    """Place in the catalogue: after the adapters in Python."""

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.read.file.name

    @functools.cached_property
    def models(self) -> tuple[Model, ...]:
        """The models that clients can order."""
        return tuple(make_model(self.read.file, table) for table in self.read.file.model)

    @functools.cached_property
    def settings_type(self) -> type[ProviderSettings]:
        """The type of the provider's settings, with the file's defaults."""
        return settings_type(self.read.file)

    def __call__(
        self, settings: ProviderSettings, clock: Clock, public_url: str, options: UpstreamOptions = DEFAULT_OPTIONS, /
    ) -> "Declared":
        """Build the provider."""
        described = {"name": self.name, "models": self.models, "settings_type": self.settings_type}
        adapter: type[Declared] = type(f"Declared[{self.name}]", (Declared,), described)
        return adapter(self.read.file, settings, clock, public_url, options)


class Declared(Provider):
    """A provider that a file describes."""

    def __init__(
        self,
        file: ProviderFile,
        settings: ProviderSettings,
        clock: Clock,
        public_url: str,
        options: UpstreamOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.file = file
        self._clock = clock
        own = settings.base_url == self.file.base_url  # else the operator vouches for another host
        others = [URL(host) for host in self.file.hosts] if own else []
        super().__init__(settings, clock, public_url, options, others=others, public=own)
        self._tables = {model.name: model for model in self.file.model}
        self._bodies = {model.name: body_of(self.file, model) for model in self.file.model}
        assert isinstance(self.dialect, FileDialect)  # noqa: S101 -- `declare_dialect` returned it
        self.answers = Answers(self.file, self.dialect, self.upstream)

    def declare_dialect(self) -> FileDialect:
        """Return the key as `[auth]` has it sent, and the file's errors."""
        auth, key, ours = self.file.auth, self.settings.key, self.file.submit.idempotency
        header: Mapping[str, str] = {auth.header: auth.value.replace("{key}", key)} if auth.header else {}
        signs = auth.header is not None and auth.jwt is not None and ":" in key
        if auth.header is not None and auth.jwt is not None and signs:
            lifetime, backdate = auth.jwt.lifetime, auth.jwt.backdate
            header = SignedHeader(auth.header, auth.value, key, self._clock, lifetime=lifetime, backdate=backdate)
        return FileDialect(
            credential=header,
            query_credential={auth.query: key} if auth.query else {},
            signing_key=key if signs else "",
            headers=self.file.headers,
            in_progress=ours.in_progress if ours else (),
            table=self.file.errors,
        )

    async def check_key(self) -> str:
        """Read the free path that the file names for this."""
        if self.file.auth.check is None:
            return await super().check_key()
        await self.upstream.check_key(self.file.auth.check)
        return ""

    # --- the order ---

    async def prepare(self, order: Order, inputs: Inputs) -> Request:
        """Read or upload the media, then fill the body's template."""
        table = self._tables[order.model.partition("/")[2]]
        fields = await self._values(table, order, inputs)
        named = {table.fields[name].name or name: value for name, value in fields.items()}
        values = {**fields, "model": table.id or table.name, "fields": named}
        body = templates.fill(self._bodies[table.name], values)
        body = {} if body is templates.ABSENT else body
        self._add_extra(body, order.extra)
        path = templates.fill_path(self.file.submit.path, _own_values(table))
        if self.file.submit.encoding == "multipart":
            return Request(path, form=tuple(_parts(body)), model=table.name)
        return Request(path, json=body, model=table.name)

    def _add_extra(self, body: dict[str, Any], extra: Mapping[str, Any]) -> None:
        place = self.file.submit.extra_in
        if extra:
            (body.setdefault(place, {}) if place else body).update(extra)

    async def _values(self, table: ModelTable, order: Order, inputs: Inputs) -> dict[str, object]:
        """Return the order's fields as the provider takes them."""
        given = {name: (table.fields[name], value) for name, value in order.fields.items()}
        refs = [
            ref
            for field, value in given.values()
            for ref in _listed(value)
            if field.type == "media" and field.send in _INLINE_FORMS and not _is_passed(field, ref)
        ]
        files = dict(zip(refs, await inputs.files(refs), strict=True)) if refs else {}
        values: dict[str, object] = {}
        for name, (field, value) in given.items():
            sent = [await self._value(field, item, inputs, files) for item in _listed(value)]
            shaped = [_shaped(field, one, files.get(item)) for one, item in zip(sent, _listed(value), strict=True)]
            values[name] = shaped if field.many else shaped[0]
        return values

    async def _value(self, field: FieldTable, value: Any, inputs: Inputs, files: Mapping[str, File]) -> object:
        if field.type != "media":
            mapped = field.choices[choice_key(value)] if isinstance(field.choices, dict) else value
            return choice_key(mapped) if field.as_text else mapped
        if _is_passed(field, value):
            return value
        if field.send == "url":
            return self._link(value, inputs)
        if field.send == "upload":
            return await inputs.upload(value, self._upload)
        file = files[value]
        return file if field.send == "part" else file.data_url() if field.send == "data" else file.base64()

    def _link(self, ref: str, inputs: Inputs) -> str:
        """Return a Link to an asset. Raises UpstreamRejected if the provider cannot open it."""
        if is_loopback(self.public_url) and not is_loopback(self.upstream.base_url):
            raise UpstreamRejected(
                f"{self.name} would have to fetch {ref}, but POLLCAST_PUBLIC_URL is a loopback address. "
                "Nothing was sent."
            )
        return inputs.url(ref)

    async def _upload(self, file: File) -> str:
        upload = self.file.upload
        assert upload is not None, "the reader refuses such a file"  # noqa: S101
        if upload.limit is not None and len(file.data) > upload.limit:
            raise UpstreamRejected(f"{self.name} takes files of at most {upload.limit} bytes. Nothing was sent.")
        about = {"name": file.name, "type": file.type}
        form = {name: templates.fill_text(text, about) for name, text in upload.form.items()}
        answer = await self.upstream.upload(upload.path, upload.part, file, form)
        return self.answers.uploaded(upload, answer)

    async def submit(self, request: Request) -> Ticket:
        """Send an order, with its key where the file says so."""
        return self.answers.ticket(request.model, await self.upstream.submit(self._with_key(request)))

    def _with_key(self, request: Request) -> Request:
        """Return a request with the file's headers, and with `request.key` where the file has it sent."""
        ours, headers = self.file.submit.idempotency, dict(self.file.submit.headers)
        if ours is not None and ours.header:
            headers[ours.header] = request.key
        if ours is None or not ours.field:
            return replace(request, headers=headers)
        body = request.json if isinstance(request.json, dict) else orjson.loads(orjson.dumps(request.json))
        return replace(request, headers=headers, json={**body, ours.field: request.key})

    async def lookup(self, request: Request) -> Ticket | None:
        """Read the job by its key, at the path that the file names."""
        lookup = self.file.lookup
        assert lookup is not None, "only models with `can_lookup` are looked up"  # noqa: S101
        values = {**_own_values(self._tables[request.model]), "job": request.key}
        try:
            answer = await self._read(templates.fill_path(lookup.path, values))
        except UnknownToProvider:
            return None
        return self.answers.found_ticket(request.model, answer)

    # --- the polls ---

    async def check(self, ticket: Ticket, last_answers: LastAnswers) -> Update:
        """Read the state, and the result once the job is done."""
        table = self._table(ticket)
        try:
            answer = await self._read(self._url(self.file.poll.path, self._ticket_values(ticket)), last_answers)
            result = await self._result(ticket, answer)
            return self.answers.update(table, answer, result)
        except Ended as ended:
            return Update(status=Status.ERROR, error=ended.error)

    async def _read(self, path: str, last_answers: LastAnswers | None = None) -> Answer:
        answer = await self.upstream.get(path, last_answers=last_answers)
        self.answers.check(answer)
        return answer

    async def _result(self, ticket: Ticket, answer: Answer) -> Answer:
        """Return the answer that has the outputs: that of the last poll, or of a further request once a job is done."""
        result = self.file.result
        if not result.path or self.answers.standing(answer).state != "done":
            return answer
        values = {**self._ticket_values(ticket), **kept_values(self.file.poll.keep, answer.json())}
        found = await self.upstream.get(self._url(result.path, values), accepted=result.http_failure)
        if found.ok:
            self.answers.check(found)
        return found

    async def content(self, ticket: Ticket, output: Output, n: int) -> Source:
        """Return the URL as it was, or read it again if it needs the key or can be renewed."""
        if not (output.relayed or self.file.result.renewable):
            return Source(output.url or "")
        try:
            answer = await self._read(self._url(self.file.poll.path, self._ticket_values(ticket)))
            found = self.answers.urls(self._table(ticket), await self._result(ticket, answer))
        except (UnknownToProvider, UnreadableAnswer):
            found = []
        url = found[n] if n < len(found) else output.url
        if not url:
            raise UnreadableAnswer(f"{self.name} no longer names the result.")
        return Source(url, needs_key=self.file.result.keyed and self.upstream.is_own(url))

    async def cancel(self, ticket: Ticket) -> None:
        """Send the request that the file names, if it names one."""
        cancel = self.file.cancel
        if cancel is None:
            return
        try:
            url = self._url(cancel.path, self._ticket_values(ticket))
        except UpstreamProtocol as error:
            raise ReadFailed(error.message) from None
        await self.upstream.call(cancel.method, url)

    # --- paths ---

    def _table(self, ticket: Ticket) -> ModelTable:
        table = self._tables.get(ticket["model"])
        if table is None:
            raise UnreadableAnswer(f"The file of {self.name} has no model {ticket['model']!r} any more.")
        return table

    def _ticket_values(self, ticket: Ticket) -> dict[str, object]:
        return {**ticket, **_own_values(self._table(ticket))}

    def _filled(self, paths: Sequence[str], values: Mapping[str, object]) -> str | None:
        """Return the first path whose placeholders all have values. A URL from an answer stays as it is."""
        for path in paths:
            if all(name in values for name in templates.placeholders(path)):
                name = templates.lone(path)
                return str(values[name]) if name else templates.fill_path(path, values)
        return None

    def _url(self, paths: Sequence[str], values: Mapping[str, object]) -> str:
        """Return the URL or path of a request. Raises UpstreamProtocol if it is not on the provider's hosts."""
        url = self._filled(paths, values)
        if url is None:
            raise UnreadableAnswer(f"{self.name}'s answers lack what the next request needs.")
        if url.startswith("/") and not url.startswith("//"):
            return url
        if not self._is_own(url):
            shown = self.dialect.safe_text(url)[:100]
            raise UpstreamProtocol(f"{self.name} names a URL that is not on its hosts, so it gets no key: {shown}")
        return url

    def _is_own(self, url: str) -> bool:
        try:
            parsed = URL(url)
            return parsed.user is None and parsed.password is None and self.upstream.is_own(url)
        except ValueError:
            return False


def _own_values(table: ModelTable) -> dict[str, object]:
    return {"model": table.id or table.name, "path": table.path}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_passed(field: FieldTable, ref: str) -> bool:
    """Return whether the provider gets a client's URL as it is."""
    return (field.pass_urls or field.send == "url") and not is_asset(ref)


def _shaped(field: FieldTable, value: object, file: File | None) -> object:
    """Return a value in the field's shape."""
    if field.shape is None:
        return value
    return templates.fill(field.shape, {"value": value, **({"type": file.type} if file else {})})


def _parts(body: Mapping[str, Any]) -> list[tuple[str, str | File]]:
    """Return a body as the parts of a multipart form: a list as several parts, an object as JSON."""
    parts: list[tuple[str, str | File]] = []
    for name, value in body.items():
        for item in _listed(value):
            if isinstance(item, str | File):
                parts.append((name, item))
            elif isinstance(item, dict):
                parts.append((name, orjson.dumps(item, default=str).decode()))
            else:
                parts.append((name, choice_key(item)))
    return parts
