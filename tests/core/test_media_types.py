"""Media types: recognized by the first bytes, and limited to the types that are served."""

import pytest

from proxy.core.job import Kind, Role
from proxy.core.media_types import by_url, extension, kind_of, served_type, sniff
from tests.support.root import ROOT

MEDIA = ROOT / "proxy" / "simulator" / "media"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("audio.mp3", "audio/mpeg"),
        ("image.png", "image/png"),
        ("preview.gif", "image/gif"),
        ("thumbnail.jpg", "image/jpeg"),
        ("video.mp4", "video/mp4"),
    ],
)
def test_a_real_file_is_known_by_its_first_512_bytes(name: str, media_type: str) -> None:
    assert sniff((MEDIA / name).read_bytes()[:512]) == media_type


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"\xff\xd8\xff\xdb", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video/mp4"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video/mp4"),
        (b"\0\0\0\x1cftypM4V \0\0\0\0", "video/mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "video/quicktime"),
        (b"\0\0\0\x1cftypM4A \0\0\0\0", "audio/mp4"),
        (b"ID3\x04\0\0", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"\xff\xf3\x40\xc0", "audio/mpeg"),
        (b"\xff\xe3\x18\xc4", "audio/mpeg"),
        (b"OggS\0\2", "audio/ogg"),
        (b"fLaC\0\0\0\x22", "audio/flac"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81", "video/webm"),
    ],
)
def test_a_signature_determines_the_type(head: bytes, media_type: str) -> None:
    assert sniff(head) == media_type


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff",
        b"<!DOCTYPE html><html>",
        b"<html>",
        b"\n <script>alert(1)</script>",
        b'<svg xmlns="http://www.w3.org/2000/svg">',
        b'<?xml version="1.0"?><svg/>',
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"MZ\x90\0",
        b"Hello, World!",
        b'{"a":1}',
        b"\xff\xfe<\0h\0",
        b"\xff\xf1\x50\x80",
        b"\x89PNG\n",
        b"RIFF\x24\0\0\0AVI LIST",
        b"RIFF",
        b"\0\0\0\x18moov",
        b"GIF88a",
    ],
)
def test_bytes_of_any_other_type_are_unknown(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize("brand", [b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"])
def test_a_picture_in_an_iso_container_is_no_video(brand: bytes) -> None:
    assert sniff(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0") is None


@pytest.mark.parametrize(
    ("media_type", "shown"),
    [
        ("video/mp4", "video/mp4"),
        ("IMAGE/PNG", "image/png"),
        ("video/mp4; codecs=avc1", "video/mp4"),
        (" image/jpeg ", "image/jpeg"),
        ("image/jpg", "image/jpeg"),
        ("audio/mp3", "audio/mpeg"),
        ("audio/x-wav", "audio/wav"),
        ("audio/x-m4a", "audio/mp4"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/plain; charset=utf-7", "text/plain; charset=utf-8"),
    ],
)
def test_a_type_on_the_closed_list_is_served_as_itself(media_type: str, shown: str) -> None:
    assert served_type(media_type) == shown


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "TEXT/HTML; charset=utf-8",
        "application/xhtml+xml",
        "image/svg+xml",
        "application/xml",
        "text/xml",
        "text/javascript",
        "text/css",
        "application/pdf",
        "application/json",
        "multipart/x-mixed-replace",
        "text/html, image/png",
        "image/png, text/html",
        "image/png\0",
        "",
    ],
)
def test_any_other_type_is_served_as_bytes(media_type: str) -> None:
    assert served_type(media_type) == "application/octet-stream"


@pytest.mark.parametrize(
    ("url", "role", "media_type"),
    [
        ("https://x.example/cat.mp4", Role.VIDEO, "video/mp4"),
        ("https://x.example/cat.webm", Role.VIDEO, "video/webm"),
        ("https://x.example/cat.mov?sig=a.gif#t=1", Role.VIDEO, "video/quicktime"),
        ("https://x.example/cat", Role.VIDEO, "video/mp4"),
        ("https://x.example/cat.zip", Role.VIDEO, "video/mp4"),
        ("https://x.example/cat.png", Role.VIDEO, "video/mp4"),
        ("https://x.example/get?file=cat.webm", Role.VIDEO, "video/mp4"),
        ("https://x.example/cat.jpg", Role.IMAGE, "image/jpeg"),
        ("https://x.example/cat", Role.IMAGE, "image/png"),
        ("https://x.example/cat.gif", Role.THUMBNAIL, "image/gif"),
        ("https://x.example/cat", Role.THUMBNAIL, "image/jpeg"),
        ("https://x.example/song.mp3", Role.AUDIO, "audio/mpeg"),
        ("https://x.example/song", Role.AUDIO, "audio/mpeg"),
        ("https://x.example/song.html", Role.AUDIO, "audio/mpeg"),
        ("https://x.example/text.html", Role.TEXT, "text/plain; charset=utf-8"),
        ("https://x.example/page.pdf", Role.PAGE, "text/html"),
        ("", Role.VIDEO, "video/mp4"),
    ],
)
def test_a_url_s_extension_determines_a_type_that_fits_the_role(url: str, role: Role, media_type: str) -> None:
    assert by_url(url, role) == media_type


def test_a_wav_file_is_named_as_everywhere_else() -> None:
    # Python's own table says audio/x-wav.
    assert by_url("https://x.example/song.wav", Role.AUDIO) == "audio/wav"


@pytest.mark.parametrize("url", ["http://[", "https://[::1/cat.mp4"])
def test_a_url_that_cannot_be_read_has_the_role_s_usual_type(url: str) -> None:
    assert by_url(url, Role.VIDEO) == "video/mp4"


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        ("image/png", Kind.IMAGE),
        ("video/mp4", Kind.VIDEO),
        ("audio/mpeg", Kind.AUDIO),
        ("text/plain; charset=utf-8", Kind.TEXT),
        ("application/octet-stream", None),
        ("", None),
    ],
)
def test_a_type_s_kind_is_its_family(media_type: str, kind: Kind | None) -> None:
    assert kind_of(media_type) is kind


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        ("image/jpeg", ".jpg"),
        ("video/mp4", ".mp4"),
        ("audio/mpeg", ".mp3"),
        ("text/plain; charset=utf-8", ".txt"),
        ("application/octet-stream", ".bin"),
        ("text/html", ".bin"),
    ],
)
def test_the_extension_of_a_type_off_the_list_is_bin(media_type: str, name: str) -> None:
    assert extension(media_type) == name
