"""Containers with audio only, built box by box (MP4) and element by element (WebM)."""

import pytest

from proxy.core.tracks import in_memory, with_tracks


def box(name: bytes, *content: bytes, large: bool = False) -> bytes:
    body = b"".join(content)
    if large:
        return b"\0\0\0\1" + name + (len(body) + 16).to_bytes(8) + body
    return (len(body) + 8).to_bytes(4) + name + body


FTYP = box(b"ftyp", b"mp42\0\0\0\0isommp42")
SAMPLES = box(b"mdat", bytes(5000))


def track(handler: bytes) -> bytes:
    media = box(b"mdia", box(b"mdhd", bytes(24)), box(b"hdlr", bytes(8), handler, bytes(13)), box(b"minf", bytes(900)))
    return box(b"trak", box(b"tkhd", bytes(84)), media)


def moov(*handlers: bytes) -> bytes:
    return box(b"moov", box(b"mvhd", bytes(100)), *map(track, handlers))


FILES = {
    "sound, its index last": (FTYP + SAMPLES + moov(b"soun"), "audio/mp4"),
    "sound, its index first": (FTYP + moov(b"soun") + SAMPLES, "audio/mp4"),
    "sound and text": (FTYP + moov(b"text", b"soun"), "audio/mp4"),
    "sound and pictures": (FTYP + SAMPLES + moov(b"soun", b"vide"), "video/mp4"),
    "pictures": (FTYP + moov(b"vide"), "video/mp4"),
    "a large box": (FTYP + box(b"mdat", bytes(9), large=True) + moov(b"soun"), "audio/mp4"),
    "no index": (FTYP + SAMPLES, "video/mp4"),
    "half an index": ((FTYP + moov(b"soun"))[:-1000], "video/mp4"),
    "a box without a length": (FTYP + b"\0\0\0\0mdat" + bytes(9), "video/mp4"),
    "a box shorter than its head": (FTYP + b"\0\0\0\3mdat" + moov(b"soun"), "video/mp4"),
    "more boxes than are read": (FTYP + box(b"free") * 500 + moov(b"soun"), "video/mp4"),
    "nothing": (b"", "video/mp4"),
}


@pytest.mark.parametrize(("data", "media_type"), FILES.values(), ids=FILES)
async def test_an_mp4_is_audio_if_all_its_tracks_are_sound(data: bytes, media_type: str) -> None:
    assert await with_tracks("video/mp4", len(data), in_memory(data)) == media_type


def element(name: str, *content: bytes, endless: bool = False) -> bytes:
    body = b"".join(content)
    size = b"\x01" + b"\xff" * 7 if endless else (len(body) | 1 << 28).to_bytes(4)
    return bytes.fromhex(name) + size + body


HEAD = element("1A45DFA3", element("4282", b"webm"))
INFO = element("1549A966", element("4D80", b"Chrome"), element("5741", b"Chrome"))


def tracks(*types: int) -> bytes:
    entries = [
        element("AE", element("D7", b"\1"), element("83", bytes([kind])), element("86", b"A_OPUS")) for kind in types
    ]
    return element("1654AE6B", *entries)


def webm(*parts: bytes) -> bytes:
    return HEAD + element("18538067", *parts, endless=True)


CLUSTER = element("1F43B675", element("E7", b"\0"), endless=True)
RECORDINGS = {
    "Chrome's sound": (webm(INFO, tracks(2), CLUSTER), "audio/webm"),
    "a seek head before": (webm(element("114D9B74", bytes(40)), element("EC", bytes(90)), tracks(2)), "audio/webm"),
    "sound and pictures": (webm(INFO, tracks(2, 1), CLUSTER), "video/webm"),
    "pictures": (webm(INFO, tracks(1)), "video/webm"),
    "tracks behind the first frames": (webm(INFO, CLUSTER, tracks(2)), "video/webm"),
    "half the tracks": (webm(INFO, tracks(2, 1)[:-20]), "video/webm"),
    "a head alone": (HEAD, "video/webm"),
    "nothing": (b"", "video/webm"),
}


@pytest.mark.parametrize(("data", "media_type"), RECORDINGS.values(), ids=RECORDINGS)
async def test_a_webm_is_audio_if_all_its_tracks_are_sound(data: bytes, media_type: str) -> None:
    assert await with_tracks("video/webm", len(data), in_memory(data)) == media_type


async def test_a_type_that_is_no_container_stays() -> None:
    assert await with_tracks("image/png", 9, in_memory(b"\x89PNG")) == "image/png"
