"""Provider files of an installation: those that come with Pollcast, and those of the operator's folder."""

from collections.abc import Collection, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Final

import orjson

from proxy.core.provider_file import FileText, ReadFile, fault, read
from proxy.core.settings import BadSetting
from proxy.providers.declared import DeclaredKind

BUNDLED: Final = Path(str(files("proxy.providers") / "files"))
"""Folder of the files that come with Pollcast."""


def bundled(name: str, folder: Path = BUNDLED) -> FileText | None:
    """Return the text of the provider `name` that comes with Pollcast; None if there is none."""
    file = folder / f"{name}.toml"
    return FileText.at(file) if file in folder.glob("*.toml") else None


def dump_texts(kind: DeclaredKind) -> bytes:
    """Return the texts of a provider's file. `load_texts` reads them."""
    return orjson.dumps([{"name": text.name, "text": text.text} for text in kind.read.texts])


def load_texts(record: bytes) -> DeclaredKind:
    """Return the provider of a file whose texts `dump_texts` wrote. Raises BadFile if this version cannot read it."""
    source, *bases = (FileText(**text) for text in orjson.loads(record))
    return DeclaredKind(read(source, lambda _: bases[0] if bases else None))


def read_folder(folder: str, taken: Collection[str] = (), shipped: Path = BUNDLED) -> list[DeclaredKind]:
    """Return the providers of all files: the shipped ones, and those of `folder` ("": none). Raises BadSetting.

    `taken` are names that other providers have. A file that extends a shipped one under its name replaces it.
    """
    own: dict[str, ReadFile] = {}
    for source, found in _own_files(folder, shipped) if folder else ():
        name = found.file.name
        if name in taken or name in own:
            raise fault(source, ("name",), f"is taken: there is another provider {name!r}")
        if bundled(name, shipped) is not None and found.file.extends != name:
            rule = f'write extends = "{name}" to add models to it'
            raise fault(source, ("name",), f"is taken: {name} comes with Pollcast; {rule}")
        own[name] = found
    texts = [FileText.at(file) for file in sorted(shipped.glob("*.toml")) if file.stem not in own]
    found_shipped = [read(text, partial(bundled, folder=shipped)) for text in texts]
    return [DeclaredKind(found) for found in (*found_shipped, *own.values())]


def _own_files(folder: str, shipped: Path) -> Iterator[tuple[FileText, ReadFile]]:
    place = Path(folder)
    if not place.is_dir():
        raise BadSetting(f"POLLCAST_PROVIDERS: there is no folder {folder}")
    for file in sorted(place.glob("*.toml")):
        source = FileText.at(file)
        yield source, read(source, partial(bundled, folder=shipped))
