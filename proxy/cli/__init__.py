"""The `pollcast` command and its subcommands, built with click."""

import io
import sys
from importlib import import_module
from typing import Final

import click

_MODULES: Final = {
    "serve": "serve",
    "keys": "keys",
    "check": "check",
    "doctor": "doctor",
    "generate": "jobs",
    "watch": "jobs",
    "jobs": "jobs",
    "models": "jobs",
    "trace": "trace",
}
"""From each command's name to the module of this package that defines it."""


class Commands(click.Group):
    """Command group that imports a command's module on first use.

    Client commands such as `watch` therefore start without loading the server's libraries.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        del ctx
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None if it is unknown."""
        del ctx
        module = _MODULES.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), cmd_name)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pollcast", prog_name="pollcast")
def main() -> None:
    """Pollcast: one server-sent-events stream for every generation provider."""
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")  # escapes characters that its encoding (cp1252, ASCII) lacks
