"""Sanitizing of foreign text for JSON, for a log line, and for a terminal."""


def replace_surrogates(text: str) -> str:
    """Return text that UTF-8 and JSON can carry: each lone surrogate becomes `?`.

    aiohttp decodes header bytes that are invalid UTF-8 as lone surrogates.
    """
    return text.encode(errors="replace").decode()


def escape_unprintable(text: str) -> str:
    r"""Return one printable line: line ends, terminal escapes and the like become `\n`, `\x1b`.

    Foreign text can then neither start another line of a log nor change a terminal's colors.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def replace_unprintable(text: str) -> str:
    """Return text that moves no cursor: each unprintable character but line end and tab becomes U+FFFD."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
