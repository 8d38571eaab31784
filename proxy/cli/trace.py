"""`trace`: what a job and its provider said to each other, if the flight recorder was on."""

from typing import Any

import click

from proxy.cli.output import json_line
from proxy.core.clock import rfc3339
from proxy.core.files import restrict_umask
from proxy.core.settings import BadSetting, Settings, load
from proxy.telemetry.trace import Traces


@click.command()
@click.argument("job")
def trace(job: str) -> None:
    """Print the exchanges of JOB with its provider, a JSON line each; an answer that came again is counted.

    They are recorded where POLLCAST_TRACE names a folder. Keys and signatures are left out; what clients wrote is not.
    """
    restrict_umask()
    try:
        folder = load(Settings).trace
        if not folder:
            raise click.ClickException("Nothing is recorded: POLLCAST_TRACE names no folder.")
        exchanges = Traces(folder).read(job)
    except (BadSetting, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if not exchanges:
        raise click.ClickException(f"There is no trace of {job} in {folder}.")
    for exchange in exchanges:
        click.echo(json_line({name: _shown(name, value) for name, value in exchange.items()}))


def _shown(name: str, value: Any) -> Any:
    return rfc3339(value) if name in {"at", "until"} else value
