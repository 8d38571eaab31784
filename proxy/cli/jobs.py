"""`generate`, `watch`, `jobs`, `models`: a server's API from the terminal, and from scripts.

Exit statuses: 0 completed, 1 the job failed or the server does not serve, 2 the command or the order is wrong,
3 canceled, 130 interrupted.
"""

import asyncio
import shlex
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.api_client import FINAL, Client, Event, Lost, Refused
from proxy.cli.order_args import Field, OrderArguments, typed
from proxy.cli.output import FAILED, Watch, json_line, say, told
from proxy.cli.run import loop_factory
from proxy.core.settings import BadSetting, ClientSettings, load
from proxy.core.text import replace_unprintable

_WRONG: Final = 2
_INTERRUPTED: Final = 130
_WIDE: Final = 250
"""Columns of a table that no terminal bounds."""


def _asks_a_server(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that speaks with a server."""
    for option in (
        click.option("--key", help="Your key; else POLLCAST_KEY."),
        click.option("--server", help="Its URL; else POLLCAST_SERVER, else http://127.0.0.1:8000."),
        click.option("--json", "lines", is_flag=True, help="JSON on standard output, a line for each."),
    ):
        command = option(command)
    return command


_out = click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="A file (several outputs: numbered), or a directory."
)


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--image", "images", multiple=True, help="A file, a URL or an asset's id; may be repeated.")
@click.option("--audio", help="A file, a URL or an asset's id.")
@click.option("--field", "fields", type=Field(), multiple=True, help="Any other field, its value as JSON or text.")
@click.option("--idempotency-key", help="Your own name for this order: with the same one, no second job is made.")
@_out
@_asks_a_server
def generate(
    *,
    model: str,
    prompt: str | None,
    images: Sequence[str],
    audio: str | None,
    fields: Sequence[tuple[str, str]],
    idempotency_key: str | None,
    out: Path | None,
    lines: bool,
    **where: str | None,
) -> None:
    """Order from MODEL, watch the job, and print its urls, or write its files (-o).

    Ctrl-C leaves the job running. Exits with 0 when it completed, 1 when it failed, 2 when the command or the order is
    wrong, 3 when it was canceled, 130 when it was interrupted.
    """
    if idempotency_key and not (idempotency_key.isascii() and idempotency_key.isprintable()):
        raise click.UsageError("--idempotency-key takes ASCII letters, digits and signs.")
    asked = OrderArguments(typed(model), None if prompt is None else typed(prompt), images, audio, fields)

    async def ordered(client: Client) -> AsyncGenerator[Event]:
        return client.generate(await asked.order(client), idempotency_key or str(uuid4()))

    _watch(ordered, out, where, lines=lines)


@click.command()
@click.argument("job")
@_out
@_asks_a_server
def watch(*, job: str, out: Path | None, lines: bool, **where: str | None) -> None:
    """Watch JOB from its first event to its last; the rest is as with `generate`."""

    async def watched(client: Client) -> AsyncGenerator[Event]:
        return client.watch(job)

    _watch(watched, out, where, lines=lines)


def _watch(
    begin: Callable[[Client], Awaitable[AsyncGenerator[Event]]],
    out: Path | None,
    where: Mapping[str, str | None],
    *,
    lines: bool,
) -> None:
    seen = Watch(out, lines=lines)

    async def work(client: Client) -> int:
        status = await seen.follow(await begin(client))
        await seen.deliver(client)
        return status

    status = _run(work, where, told=seen.lost)
    if seen.unfinished:
        say(f"{seen.job} goes on. Come back to it with: pollcast watch {seen.job}")
        say(f"Cancel it with: {_cancel_command(seen.job, where)}")
    elif status == _INTERRUPTED and not seen.job:
        say("No answer had come yet. If the order was taken all the same, it is in: pollcast jobs")
    sys.exit(status)


def _cancel_command(job: str, where: Mapping[str, str | None]) -> str:
    """The shell's command that cancels a job; the key is a variable."""
    path = f"{_settings(where).server.rstrip('/')}/api/jobs/{job}/cancel"
    return f'curl -X POST -H "Authorization: Bearer $POLLCAST_KEY" {shlex.quote(path)}'


@click.command("jobs")
@click.option("--status", default="", help="Only jobs that are this now, such as Processing.")
@click.option("--model", default="", help="Only jobs of this model.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@_asks_a_server
def jobs(*, status: str, model: str, limit: int, lines: bool, **where: str | None) -> None:
    """List your newest jobs."""

    async def work(client: Client) -> int:
        found = [job async for job in client.jobs(limit, status=status, model=model)]
        _list(("job", "model", "status", "", "ordered", "tokens"), found, _job_row, lines=lines)
        return 0

    sys.exit(_run(work, where))


def _job_row(job: Mapping[str, Any]) -> Sequence[str]:
    over = job["status"] in FINAL
    state = {"status": job["status"], "detail": job.get("code") if over else job.get("detail")}
    progress = f"{job['progress']:.0f} %" if "progress" in job and not over else ""
    return job["id"], job["model"], told(state), progress, job["created_at"][:16].replace("T", " "), str(job["tokens"])


@click.command("models")
@_asks_a_server
def models(*, lines: bool, **where: str | None) -> None:
    """List what can be ordered. It needs no key."""

    async def work(client: Client) -> int:
        titles = ("model", "provider", "kind", "tokens", "available", "fields")
        _list(titles, await client.models(), _model_row, lines=lines)
        return 0

    sys.exit(_run(work, where, keyed=False))


def _model_row(model: Mapping[str, Any]) -> Sequence[str]:
    available = "yes" if model["available"] else "no"
    fields = ", ".join(model["fields"]["properties"])
    return model["id"], model["provider"], model["kind"], str(model["tokens"]), available, fields


def _list(
    titles: Sequence[str],
    found: Sequence[Mapping[str, Any]],
    row: Callable[[Mapping[str, Any]], Sequence[str]],
    *,
    lines: bool,
) -> None:
    if lines:
        for one in found:
            click.echo(json_line(one))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, title in enumerate(titles):
        table.add_column(title, no_wrap=place == 0, overflow="fold")
    for one in found:
        table.add_row(*(Text(replace_unprintable(cell)) for cell in row(one)))
    # The console's own width: what is printed wider than that is folded again, and a pipe is taken for 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE).print(table)


def _run(
    work: Callable[[Client], Coroutine[Any, Any, int]],
    where: Mapping[str, str | None],
    *,
    told: Callable[[str], None] = say,
    keyed: bool = True,
) -> int:
    """Do a command's work at its server; returns the exit status that it comes to."""
    settings = _settings(where)
    key = settings.key.get_secret_value()
    if keyed and not key:
        raise click.UsageError("Give your key with --key, or in POLLCAST_KEY.")
    if not (key.isascii() and key.isprintable()):
        raise click.UsageError("A key has only ASCII letters, digits and signs.")

    async def served() -> int:
        async with Client(settings.server, key, told=told) as client:
            return await work(client)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(served())
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Refused as error:
        say(f"Error{f' ({error.code})' if error.code else ''}: {error}")
        return _WRONG if error.status in {400, 422} else FAILED
    except BrokenPipeError:
        raise  # nobody reads any more, as behind `| head`: click ends without a word
    except (Lost, OSError) as error:
        say(f"Error: {error}")
        return FAILED


def _settings(where: Mapping[str, str | None]) -> ClientSettings:
    try:
        settings = load(ClientSettings, **{name: value for name, value in where.items() if value})
    except BadSetting as error:
        raise click.UsageError(str(error)) from None
    if "@" in urlsplit(settings.server).netloc:
        raise click.UsageError(
            "POLLCAST_SERVER: write the URL without a user and password; the key goes in POLLCAST_KEY."
        )
    return settings
