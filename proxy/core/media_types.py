"""Media types: recognizes a type by its first bytes, and limits the types that this server serves.

The type of a client's or provider's bytes is decided by their content, never by a name or a header. The signatures
are those of the WHATWG MIME Sniffing standard (https://mimesniff.spec.whatwg.org/), for the closed list of types that
providers accept and make. A library's list would be longer, and a browser might execute one of its further types.
"""

import mimetypes
from typing import Final
from urllib.parse import urlsplit

from proxy.core.job import Kind, Role

UNKNOWN: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"
SNIFFED: Final = 512
"""Number of first bytes that determine a type."""

_EXTENSIONS: Final = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/quicktime": ".mov",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/mp4": ".m4a",
    "audio/webm": ".weba",
    "audio/flac": ".flac",
    TEXT: ".txt",
}

SERVED: Final = (*_EXTENSIONS, UNKNOWN)
"""The closed list of media types of responses."""

_DEFAULTS: Final = {
    Role.VIDEO: "video/mp4",
    Role.IMAGE: "image/png",
    Role.AUDIO: "audio/mpeg",
    Role.TEXT: TEXT,
    Role.PAGE: "text/html",
    Role.THUMBNAIL: "image/jpeg",
}

_ALIASES: Final = {
    "audio/mp3": "audio/mpeg",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/x-m4a": "audio/mp4",
    "image/jpg": "image/jpeg",
    "text/plain": TEXT,
}


def sniff(head: bytes) -> str | None:
    """Return the media type of bytes that begin with `head` (SNIFFED bytes suffice), or None if it is not supported.

    A video container may contain only audio; `tracks.py` reads its tracks.
    """
    if head[4:8] == b"ftyp":
        return _iso_media(head[8:12])
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12])
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    # An MPEG audio frame without an ID3 tag: 11 set bits, then a version and layer that exist (layer III).
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08:
        return "audio/mpeg"
    return None


_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\0", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)


def _iso_media(brand: bytes) -> str | None:
    if brand in {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return None  # images in the same container; no provider accepts them
    if brand in {b"M4A ", b"M4B "}:
        return "audio/mp4"
    return "video/quicktime" if brand == b"qt  " else "video/mp4"


def by_url(url: str, role: Role) -> str:
    """Return the media type of a URL's extension if it fits the role, else the role's default type."""
    usual = _DEFAULTS[role]
    try:
        guessed, _ = mimetypes.guess_type(urlsplit(url).path)
    except ValueError:
        return usual
    if guessed is None or role in {Role.TEXT, Role.PAGE}:
        return usual
    return _ALIASES.get(guessed, guessed) if guessed.split("/")[0] == usual.split("/")[0] else usual


def kind_of(media_type: str) -> Kind | None:
    """Return the kind of a media type: image, audio, video or text. None for any other."""
    family = media_type.split("/")[0]
    return Kind(family) if family in set(Kind) else None


def served_type(media_type: str) -> str:
    """Return the type for a response: the type itself if it is on the closed list, else one that browsers only save."""
    bare = media_type.split(";")[0].strip().lower()
    known = _ALIASES.get(bare, bare)
    return known if known in _EXTENSIONS else UNKNOWN


def extension(media_type: str) -> str:
    """Return the usual file extension with its dot; `.bin` for types that are not on the list."""
    return _EXTENSIONS.get(media_type, ".bin")
