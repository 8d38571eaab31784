"""A job on the terminal or in a pipe: what was asked for on standard output, what is told of it on standard error."""

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
    """Tell the person, beside what the command gives."""
    _terminal.print(Text(replace_unprintable(text)), soft_wrap=True)


def told(state: Mapping[str, Any]) -> str:
    """The state of a job, or an event, in one line."""
    return replace_unprintable(": ".join(str(word) for word in (state["status"], state.get("detail")) if word))


def json_line(value: Any) -> bytes:
    """A value as a line of JSON in which every character that a terminal may act upon is escaped."""
    text = orjson.dumps(value).decode()
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text).encode()


def _escaped(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[place] << 8 | units[place + 1]:04x}" for place in range(0, len(units), 2))


class _Lines:
    """A job in lines, where there is no terminal: each state once."""

    def __init__(self) -> None:
        self._last = ""

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Nothing to end."""

    def show(self, text: str, progress: float | None = None) -> None:
        """Write a state, when it is another one."""
        line = text + (f" {progress:.0f} %" if progress is not None else "")
        if line != self._last:
            say(line)
        self._last = line


class _Bar:
    """A job on a terminal: a bar that moves with its progress, or pulses while there is none."""

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
        """Begin to draw."""
        self._bar.start()

    def stop(self) -> None:
        """Clear what was drawn."""
        self._bar.stop()

    def show(self, text: str, progress: float | None = None) -> None:
        """Draw a state."""
        if progress is None:
            self._bar.update(self._task, description=text)
        else:
            self._bar.update(self._task, description=text, total=100, completed=progress, share=f"{progress:.0f} %")


class Watch:
    """One job as it comes: shown, and delivered at its end into files (`out`), or as text or urls on standard output.

    `lines` prints each event as JSON instead.
    """

    def __init__(self, out: Path | None, *, lines: bool) -> None:
        self._out = out
        self._lines = lines
        self._screen = _Bar() if _terminal.is_terminal and not lines else _Lines()
        self._written = 0
        self.job = ""
        self.final: Event = {}
        """The newest event; the last one, once the job is over."""

    def lost(self, why: str) -> None:
        """The connection is gone, for now."""
        self._screen.show(f"{replace_unprintable(why)} Coming back.")

    async def follow(self, events: AsyncGenerator[Event]) -> int:
        """Show the events; returns the exit status that their end is."""
        self._screen.start()
        try:
            async with aclosing(events):
                async for event in events:
                    self._take(event)
        finally:
            self._screen.stop()
        return self._ended()

    def _take(self, event: Event) -> None:
        self.job, self.final = event["job"], event
        if self._lines:
            click.echo(json_line(event))
        elif "delta" in event:
            self._write(event["delta"], event["offset"])
        else:
            named = f" ({self.job})" if event["n"] == 1 else ""
            self._screen.show(told(event) + named, event.get("progress"))

    def _write(self, delta: str, offset: int) -> None:
        """Write streamed text as it comes, each piece once."""
        if self._out is not None:
            return
        self._screen.stop()
        new = delta[max(self._written - offset, 0) :]
        self._written = max(self._written, offset + len(delta))
        click.echo(replace_unprintable(new) if sys.stdout.isatty() else new, nl=False)

    def _ended(self) -> int:
        final, status = self.final, self.final.get("status")
        if status == "Completed":
            return COMPLETED
        given_back = f" ({final['refunded']} tokens are given back)" if final.get("refunded") else ""
        code = f" ({final['code']})" if "code" in final else ""
        say(f"{status}{code}: {final.get('message', '')}{given_back}")
        return CANCELED if status == "Canceled" else FAILED

    @property
    def unfinished(self) -> bool:
        """Whether there is a job whose end was not seen."""
        return bool(self.job) and self.final["status"] not in FINAL

    @property
    def outputs(self) -> list[tuple[int, Mapping[str, Any]]]:
        """What there is to open, each with its number."""
        return [(n, output) for n, output in enumerate(self.final.get("outputs", ())) if output.get("url")]

    async def deliver(self, client: Client) -> None:
        """Give what was made. Raises what `Client.save` raises."""
        if self._out is not None:
            for (n, _), place in zip(self.outputs, places(self._out, self.job, self.outputs), strict=True):
                await client.save(self.job, n, place)
                click.echo(str(place), err=self._lines)
        elif "text" in self.final and not self._lines:
            self._write(self.final["text"], 0)
            click.echo()
        elif not self._lines:
            for _, output in self.outputs:
                click.echo(replace_unprintable(output["url"]))


def places(out: Path, job: str, outputs: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Path]:
    """Where outputs go: the one to `out`, several to `out-1`, `out-2` ..., those for a directory under the job's id."""
    if out.is_dir():
        endings = [mimetypes.guess_extension(output["type"].split(";")[0]) or "" for _, output in outputs]
        return [out / f"{job}-{n}{ending}" for (n, _), ending in zip(outputs, endings, strict=True)]
    if len(outputs) == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{place}{out.suffix}") for place in range(1, len(outputs) + 1)]
