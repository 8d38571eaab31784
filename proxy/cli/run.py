"""Runs a command in an event loop, and reports an error as one line."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import click

from proxy.cli.probe import NoAnswer
from proxy.core.errors import PollcastError
from proxy.core.files import restrict_umask
from proxy.core.settings import BadSetting
from proxy.core.text import replace_unprintable


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a command's coroutine and return its result. An error becomes one line on standard error.

    Files that the command creates are readable by their owner only.
    """
    restrict_umask()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work())
    except BrokenPipeError:
        raise  # the reader has closed the pipe, as `| head` does: click exits silently
    except (BadSetting, NoAnswer, PollcastError, ValueError, OSError) as error:
        raise click.ClickException(replace_unprintable(str(error))) from None
    except KeyboardInterrupt:
        return None


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's event loop, or None if uvloop is not installed."""
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
