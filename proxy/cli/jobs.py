"""Client commands `generate`, `watch`, `jobs` and `models`, for the terminal and for scripts.

Exit statuses: 0 completed, 1 the job failed or the server cannot be used, 2 the command or the order is invalid,
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
from proxy.cli.order_args import Field, OrderArguments, decode
from proxy.cli.output import FAILED, Watch, describe, json_line, say
from proxy.cli.run import loop_factory
from proxy.core.settings import BadSetting, ClientSettings, load
from proxy.core.text import replace_unprintable

_INVALID: Final = 2
"""Exit status of an invalid command or order."""
_INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells use it for SIGINT."""
_TABLE_WIDTH: Final = 250
"""Columns of a table that is not printed to a terminal."""


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options `--key`, `--server` and `--json` to a client command."""
    for option in (
        click.option("--key", help="API key. Default: POLLCAST_KEY."),
        click.option("--server", help="URL of the server. Default: POLLCAST_SERVER, or http://127.0.0.1:8000."),
        click.option("--json", "lines", is_flag=True, help="Print one JSON object per line."),
    ):
        command = option(command)
    return command


_out = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write (numbered if there are several outputs), or a directory.",
)


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--image", "images", multiple=True, help="A file, a URL or an asset id. Can be repeated.")
@click.option("--audio", help="A file, a URL or an asset id.")
@click.option("--field", "fields", type=Field(), multiple=True, help="Any other field. The value is JSON or text.")
@click.option("--idempotency-key", help="A key that identifies this order. A repeated key creates no second job.")
@_out
@connection_options
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
    **connection: str | None,
) -> None:
    """Order from MODEL, watch the job, and print the URLs of its outputs, or write them to files (-o).

    Ctrl-C leaves the job running. Exit status: 0 completed, 1 failed, 2 invalid command or order, 3 canceled,
    130 interrupted.
    """
    if idempotency_key and not (idempotency_key.isascii() and idempotency_key.isprintable()):
        raise click.UsageError("--idempotency-key may contain only printable ASCII characters.")
    arguments = OrderArguments(decode(model), None if prompt is None else decode(prompt), images, audio, fields)

    async def order(client: Client) -> AsyncGenerator[Event]:
        return client.generate(await arguments.order(client), idempotency_key or str(uuid4()))

    _watch(order, out, connection, lines=lines)


@click.command()
@click.argument("job")
@_out
@connection_options
def watch(*, job: str, out: Path | None, lines: bool, **connection: str | None) -> None:
    """Watch JOB from its first event to its last, with the same output and exit status as `generate`."""

    async def events(client: Client) -> AsyncGenerator[Event]:
        return client.watch(job)

    _watch(events, out, connection, lines=lines)


def _watch(
    begin: Callable[[Client], Awaitable[AsyncGenerator[Event]]],
    out: Path | None,
    connection: Mapping[str, str | None],
    *,
    lines: bool,
) -> None:
    watch = Watch(out, lines=lines)

    async def work(client: Client) -> int:
        status = await watch.follow(await begin(client))
        await watch.deliver(client)
        return status

    status = _run(work, connection, on_lost=watch.show_reconnecting)
    if watch.is_unfinished:
        say(f"{watch.job} is still running. Resume with: pollcast watch {watch.job}")
        say(f"Cancel it with: {_cancel_command(watch.job, connection)}")
    elif status == _INTERRUPTED and not watch.job:
        say("No response had arrived yet. To see whether the order was accepted, run: pollcast jobs")
    sys.exit(status)


def _cancel_command(job: str, connection: Mapping[str, str | None]) -> str:
    """Return the shell command that cancels a job. It reads the key from POLLCAST_KEY."""
    path = f"{_settings(connection).server.rstrip('/')}/api/jobs/{job}/cancel"
    return f'curl -X POST -H "Authorization: Bearer $POLLCAST_KEY" {shlex.quote(path)}'


@click.command("jobs")
@click.option("--status", default="", help="Only jobs with this status, such as Processing.")
@click.option("--model", default="", help="Only jobs of this model.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@connection_options
def jobs(*, status: str, model: str, limit: int, lines: bool, **connection: str | None) -> None:
    """List your newest jobs."""

    async def work(client: Client) -> int:
        found = [job async for job in client.jobs(limit, status=status, model=model)]
        _list(("job", "model", "status", "", "ordered", "tokens"), found, _job_row, lines=lines)
        return 0

    sys.exit(_run(work, connection))


def _job_row(job: Mapping[str, Any]) -> Sequence[str]:
    is_final = job["status"] in FINAL
    state = {"status": job["status"], "detail": job.get("code") if is_final else job.get("detail")}
    progress = f"{job['progress']:.0f} %" if "progress" in job and not is_final else ""
    return (
        job["id"],
        job["model"],
        describe(state),
        progress,
        job["created_at"][:16].replace("T", " "),
        str(job["tokens"]),
    )


@click.command("models")
@connection_options
def models(*, lines: bool, **connection: str | None) -> None:
    """List the models that can be ordered. No key is needed."""

    async def work(client: Client) -> int:
        titles = ("model", "provider", "kind", "tokens", "available", "fields")
        _list(titles, await client.models(), _model_row, lines=lines)
        return 0

    sys.exit(_run(work, connection, needs_key=False))


def _model_row(model: Mapping[str, Any]) -> Sequence[str]:
    available = "yes" if model["available"] else "no"
    fields = ", ".join(model["fields"]["properties"])
    return model["id"], model["provider"], model["kind"], str(model["tokens"]), available, fields


def _list(
    titles: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    row: Callable[[Mapping[str, Any]], Sequence[str]],
    *,
    lines: bool,
) -> None:
    if lines:
        for item in rows:
            click.echo(json_line(item))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, title in enumerate(titles):
        table.add_column(title, no_wrap=column == 0, overflow="fold")
    for item in rows:
        table.add_row(*(Text(replace_unprintable(cell)) for cell in row(item)))
    # rich folds wider lines to the console's width, and assumes 80 columns for a pipe.
    Console(highlight=False, width=None if sys.stdout.isatty() else _TABLE_WIDTH).print(table)


def _run(
    work: Callable[[Client], Coroutine[Any, Any, int]],
    connection: Mapping[str, str | None],
    *,
    on_lost: Callable[[str], None] = say,
    needs_key: bool = True,
) -> int:
    """Run a client command and return its exit status."""
    settings = _settings(connection)
    key = settings.key.get_secret_value()
    if needs_key and not key:
        raise click.UsageError("An API key is required: use --key or set POLLCAST_KEY.")
    if not (key.isascii() and key.isprintable()):
        raise click.UsageError("A key may contain only printable ASCII characters.")

    async def run_with_client() -> int:
        async with Client(settings.server, key, on_lost=on_lost) as client:
            return await work(client)

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(run_with_client())
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Refused as error:
        say(f"Error{f' ({error.code})' if error.code else ''}: {error}")
        return _INVALID if error.status in {400, 422} else FAILED
    except BrokenPipeError:
        raise  # the reader has closed the pipe, as `| head` does: click exits silently
    except (Lost, OSError) as error:
        say(f"Error: {error}")
        return FAILED


def _settings(connection: Mapping[str, str | None]) -> ClientSettings:
    try:
        settings = load(ClientSettings, **{name: value for name, value in connection.items() if value})
    except BadSetting as error:
        raise click.UsageError(str(error)) from None
    if "@" in urlsplit(settings.server).netloc:
        raise click.UsageError(
            "POLLCAST_SERVER: the URL must not contain a user or password. Set the key in POLLCAST_KEY."
        )
    return settings
