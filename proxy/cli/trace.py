"""`trace`: prints the recorded HTTP exchanges of a job with its provider."""

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
    """Print the exchanges of JOB with its provider, one JSON object per line. Repeated responses are counted.

    Exchanges are recorded if POLLCAST_TRACE names a folder. Keys and signatures are removed, but not the contents of
    orders.
    """
    restrict_umask()
    try:
        folder = load(Settings).trace
        if not folder:
            raise click.ClickException("Tracing is off: POLLCAST_TRACE is not set.")
        exchanges = Traces(folder).read(job)
    except (BadSetting, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if not exchanges:
        raise click.ClickException(f"There is no trace of {job} in {folder}.")
    for exchange in exchanges:
        click.echo(json_line({name: _format(name, value) for name, value in exchange.items()}))


def _format(name: str, value: Any) -> Any:
    return rfc3339(value) if name in {"at", "until"} else value
