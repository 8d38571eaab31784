"""Lines of the keys of a TOML document. `tomllib` reads the values, but does not say where they stand."""

import re
from typing import Final, NamedTuple

Place = tuple[str | int, ...]
"""Keys and list indexes from the document's root to a value."""

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<text>\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')
    |(?P<mark>[\n\[\]{},=.])
    |(?P<word>[^\s\#\[\]{},=."']+)
    """,
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    text: str
    line: int


_END: Final = _Token("", 0)


def key_lines(text: str) -> dict[Place, int]:
    """Return the line of each table, key and list item of a valid TOML document, counted from 1."""
    return _Scan(text).lines


class _Scan:
    """One pass over the tokens of a valid document."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {(): 1}
        self._counts: dict[Place, int] = {}
        self._tokens: list[_Token] = []
        self._at = 0
        line = 1
        for found in _TOKEN.finditer(text):
            if found.lastgroup != "space":
                self._tokens.append(_Token(found[0], line))
            line += found[0].count("\n")
        table: Place = ()
        while self._next is not _END:
            if self._next.text == "\n":
                self._take()
            elif self._next.text == "[":
                table = self._header()
            else:
                self._pair(table)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _take(self) -> _Token:
        taken = self._next
        self._at += 1
        return taken

    def _header(self) -> Place:
        """Read `[table]` or `[[list]]`, and return the place of the keys below it."""
        line = self._take().line
        is_list = self._next.text == "["
        if is_list:
            self._take()
        names = self._key()
        while self._next.text == "]":
            self._take()
        place: Place = ()
        for n, name in enumerate(names, 1):
            place += (name,)
            if is_list and n == len(names):
                self._counts[place] = self._counts.get(place, -1) + 1
            self.lines.setdefault(place, line)
            if place in self._counts:
                place += (self._counts[place],)
                self.lines.setdefault(place, line)
        return place

    def _key(self) -> list[str]:
        names = [_unquoted(self._take().text)]
        while self._next.text == ".":
            self._take()
            names.append(_unquoted(self._take().text))
        return names

    def _pair(self, table: Place) -> None:
        line = self._next.line
        for name in self._key():
            table += (name,)
            self.lines.setdefault(table, line)
        self._take()  # the equals sign
        self._value(table)

    def _value(self, place: Place) -> None:
        self.lines.setdefault(place, self._next.line)
        opened = self._next.text
        if opened not in {"[", "{"}:
            while self._next is not _END and self._next.text not in {"\n", ",", "]", "}"}:
                self._take()
            return
        self._take()
        n = 0
        while self._next is not _END and self._next.text not in {"]", "}"}:
            if self._next.text in {"\n", ","}:
                self._take()
            elif opened == "[":
                self._value((*place, n))
                n += 1
            else:
                self._pair(place)
        self._take()


def _unquoted(key: str) -> str:
    return key[1:-1] if key[:1] in {'"', "'"} else key
