"""How a command runs: in one event loop, and what stops it is one line."""

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
    """Run a command; what stops it is one line on standard error. What it writes is for the operator alone."""
    restrict_umask()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work())
    except BrokenPipeError:
        raise  # nobody reads any more, as behind `| head`: click ends without a word
    except (BadSetting, NoAnswer, PollcastError, ValueError, OSError) as error:
        raise click.ClickException(replace_unprintable(str(error))) from None
    except KeyboardInterrupt:
        return None


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fast loop's, where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
