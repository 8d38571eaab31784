"""The commands."""

import io
import sys

import click

from proxy.cli.check import check
from proxy.cli.client import generate, jobs, models, watch
from proxy.cli.doctor import doctor
from proxy.cli.keys import keys
from proxy.cli.serve import Server, listen, serve
from proxy.cli.trace import trace

__all__ = ["Server", "listen", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pollcast", prog_name="pollcast")
def main() -> None:
    """Pollcast: one server-sent-events stream for every generation provider."""
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")  # for letters that its encoding (cp1252, ASCII) does not have


for command in (serve, keys, check, doctor, generate, watch, jobs, models, trace):
    main.add_command(command)
