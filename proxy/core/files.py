"""Private files and folders: the store, the assets and the traces are readable by their owner alone."""

import logging
import os
import stat
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_OTHERS: Final = 0o077
"""The permission bits of all users except the owner."""


def restrict_umask() -> None:
    """Set the umask so that this process, with its libraries, creates files and folders for its owner alone."""
    os.umask(os.umask(_OTHERS) | _OTHERS)


def make_private_folder(folder: Path) -> None:
    """Create a folder and its parents for the owner alone. An existing folder keeps its permissions."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises FileExistsError for a file


def open_private(path: Path, flags: int) -> int:
    """Open a file for the owner alone; create it if it is missing. Raises OSError for a symbolic link.

    With a symbolic link, another user of the folder could redirect the data to a different file.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def narrow(path: Path) -> None:
    """Remove the permissions of other users from a file that we own. Earlier versions created wider ones."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_mode & _OTHERS and os.geteuid() in {0, found.st_uid}:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def warn_if_open(folder: Path, setting: str) -> None:
    """Warn about a folder that other users may open. Its permissions stay, because it may be shared on purpose."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS:
        log.warning(
            "%s: other users may open the folder %s (mode %o). Close it: chmod 700 %s", setting, folder, mode, folder
        )
