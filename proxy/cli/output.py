"""Output of the client commands: results on standard output, progress and messages on standard error."""

import mimetypes
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from proxy.cli.api_client import FINAL, Client, Event
from proxy.core.text import replace_unprintable

COMPLETED: Final = 0
FAILED: Final = 1
CANCELED: Final = 3

_terminal = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print a message to standard error."""
    _terminal.print(Text(replace_unprintable(text)), soft_wrap=True)


def describe(state: Mapping[str, Any]) -> str:
    """Return the status and detail of a job or an event in one line."""
    return replace_unprintable(": ".join(str(word) for word in (state["status"], state.get("detail")) if word))


def json_line(value: Any) -> bytes:
    """Return a value as one line of JSON, with every character escaped that could control a terminal."""
    text = orjson.dumps(value).decode()
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text).encode()


def _escape(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[place] << 8 | units[place + 1]:04x}" for place in range(0, len(units), 2))


class _Lines:
    """Progress as plain lines, for output that is not a terminal. Each state is printed once."""

    def __init__(self) -> None:
        self._last = ""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def show(self, text: str, progress: float | None = None) -> None:
        """Print a state if it has changed."""
        line = text + (f" {progress:.0f} %" if progress is not None else "")
        if line != self._last:
            say(line)
        self._last = line


class _Bar:
    """Progress bar on a terminal. It pulses while the progress is unknown."""

    def __init__(self) -> None:
        self._bar = Progress(
            SpinnerColumn("dots" if _terminal.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[share]}"),
            TimeElapsedColumn(),
            console=_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("Ordering", total=None, share="")

    def start(self) -> None:
        """Start to draw the bar."""
        self._bar.start()

    def stop(self) -> None:
        """Clear the bar."""
        self._bar.stop()

    def show(self, text: str, progress: float | None = None) -> None:
        """Draw a state and its progress in percent."""
        if progress is None:
            self._bar.update(self._task, description=text)
        else:
            self._bar.update(self._task, description=text, total=100, completed=progress, share=f"{progress:.0f} %")


class Watch:
    """Shows one job while it runs, and delivers its outputs.

    Outputs are written to files (`out`), or printed as text or URLs. With `lines` each event is printed as JSON
    instead.
    """

    def __init__(self, out: Path | None, *, lines: bool) -> None:
        self._out = out
        self._lines = lines
        self._screen = _Bar() if _terminal.is_terminal and not lines else _Lines()
        self._written = 0
        self.job = ""
        self.final: Event = {}
        """The newest event. After the end of the job it is the final one."""

    def show_reconnecting(self, reason: str) -> None:
        """Show that the connection is lost and that the client reconnects."""
        self._screen.show(f"{replace_unprintable(reason)} Reconnecting.")

    async def follow(self, events: AsyncGenerator[Event]) -> int:
        """Show the events and return the exit status for the final one."""
        self._screen.start()
        try:
            async with aclosing(events):
                async for event in events:
                    self._show(event)
        finally:
            self._screen.stop()
        return self._exit_status()

    def _show(self, event: Event) -> None:
        self.job, self.final = event["job"], event
        if self._lines:
            click.echo(json_line(event))
        elif "delta" in event:
            self._write(event["delta"], event["offset"])
        else:
            job = f" ({self.job})" if event["n"] == 1 else ""
            self._screen.show(describe(event) + job, event.get("progress"))

    def _write(self, delta: str, offset: int) -> None:
        """Print streamed text on arrival, each piece once."""
        if self._out is not None:
            return
        self._screen.stop()
        new = delta[max(self._written - offset, 0) :]
        self._written = max(self._written, offset + len(delta))
        click.echo(replace_unprintable(new) if sys.stdout.isatty() else new, nl=False)

    def _exit_status(self) -> int:
        final, status = self.final, self.final.get("status")
        if status == "Completed":
            return COMPLETED
        refund = f" ({final['refunded']} tokens refunded)" if final.get("refunded") else ""
        code = f" ({final['code']})" if "code" in final else ""
        say(f"{status}{code}: {final.get('message', '')}{refund}")
        return CANCELED if status == "Canceled" else FAILED

    @property
    def is_unfinished(self) -> bool:
        """True if a job was started and its final event has not been seen."""
        return bool(self.job) and self.final["status"] not in FINAL

    @property
    def outputs(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Outputs that have a URL, each with its number."""
        return [(n, output) for n, output in enumerate(self.final.get("outputs", ())) if output.get("url")]

    async def deliver(self, client: Client) -> None:
        """Write or print the outputs. Raises Refused, Lost and OSError."""
        if self._out is not None:
            for (n, _), path in zip(self.outputs, paths(self._out, self.job, self.outputs), strict=True):
                await client.save(self.job, n, path)
                click.echo(str(path), err=self._lines)
        elif "text" in self.final and not self._lines:
            self._write(self.final["text"], 0)
            click.echo()
        elif not self._lines:
            for _, output in self.outputs:
                click.echo(replace_unprintable(output["url"]))


def paths(out: Path, job: str, outputs: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Path]:
    """Return the paths of the outputs.

    A single output is written to `out`, several to `out-1`, `out-2` and so on. In a directory, files are named after
    the job's id.
    """
    if out.is_dir():
        endings = [mimetypes.guess_extension(output["type"].split(";")[0]) or "" for _, output in outputs]
        return [out / f"{job}-{n}{ending}" for (n, _), ending in zip(outputs, endings, strict=True)]
    if len(outputs) == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, len(outputs) + 1)]
