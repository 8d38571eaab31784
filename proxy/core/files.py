"""Files and folders that only the operator may read: the store, the assets, the traces."""

import logging
import os
import stat
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_OTHERS: Final = 0o077
"""The permissions of everyone but the owner."""


def restrict_umask() -> None:
    """Let this process make files and folders for its owner alone, those of libraries included."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it, for the owner alone. One that exists keeps its permissions."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises FileExistsError for a file


def open_private(path: Path, flags: int) -> int:
    """Open a file for the owner alone, made if it is missing. Raises OSError for a symbolic link.

    Somebody who can write to the folder could otherwise lead what is written to another file.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def narrow(path: Path) -> None:
    """Take an own file's permissions from everyone but its owner; earlier versions made wider ones."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS and os.geteuid() in {0, found.st_uid}:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def warn_if_open(folder: Path, setting: str) -> None:
    """Report a folder that other users of the machine may enter. It may be shared on purpose, so it stays as it is."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS:
        log.warning(
            "%s: other users may open the folder %s (mode %o). Close it: chmod 700 %s", setting, folder, mode, folder
        )
