"""Real proxies in front of a server: the installed nginx and Caddy, with the blocks of `proxy/docs/proxies.md`."""

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.root import blocks, page

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def needed(program: str) -> str:
    """Where a program is; the test is skipped where it is not, unless these are the tests that count."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is not None:
        return found
    reason = f"{program} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def block(language: str) -> str:
    """Return the configuration that the page on proxies shows."""
    (found,) = blocks(page("proxies"), language)
    return found


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, and its key."""
    made, key = folder / "made.pem", folder / "made.key"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run([needed("openssl"), *command.split(), *names], check=True, capture_output=True)  # noqa: S603
    return made, key


def trusting(folder: Path) -> ssl.SSLContext:
    """Return an SSL context that trusts the certificate."""
    return ssl.create_default_context(cafile=folder / "made.pem")


@contextmanager
def nginx(folder: Path, servers: str) -> Iterator[None]:
    """nginx with these server blocks, for as long as the body lasts."""
    program = needed("nginx")
    folder.mkdir(exist_ok=True)
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, servers=servers))
    command = [program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(configuration)]
    with running(command, folder / "error.log", re.findall(r"listen 127\.0\.0\.1:(\d+)", servers)):
        yield


@contextmanager
def plain_nginx(folder: Path, origin: str, *lines: str, location: str = "") -> Iterator[str]:
    """nginx with nothing but a `proxy_pass`, and these lines; gives its origin."""
    port = free_port()
    inside = f"location / {{ proxy_pass {origin}; {location} }}"
    with nginx(folder, f"server {{ listen 127.0.0.1:{port}; {' '.join(lines)} {inside} }}"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def keepalive_nginx(folder: Path, origin: str, location: str = 'proxy_set_header Connection "";') -> Iterator[str]:
    """nginx that keeps its connections to the server, and passes a body on as it comes."""
    port = free_port()
    upstream = f"upstream kept {{ server {origin.removeprefix('http://')}; keepalive 8; }}"
    inside = f"proxy_pass http://kept; proxy_http_version 1.1; proxy_request_buffering off; {location}"
    server = f"server {{ listen 127.0.0.1:{port}; client_max_body_size 0; location / {{ {inside} }} }}"
    with nginx(folder, upstream + server):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def upgrading_nginx(folder: Path, origin: str) -> Iterator[str]:
    """The same, as the usual recipe for WebSockets has it: offers of an upgrade are passed on."""
    offer = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;"
    with keepalive_nginx(folder, origin, offer) as place:
        yield place


@contextmanager
def documented_nginx(folder: Path, origin: str) -> Iterator[str]:
    """nginx with the block of the page; only ports, names and paths are replaced."""
    folder.mkdir(exist_ok=True)
    port, (made, key) = free_port(), certificate(folder)
    ours = {
        "listen 443": f"listen 127.0.0.1:{port}",
        "http://127.0.0.1:8000": origin,
        "/etc/ssl/cast.example.com.pem": str(made),
        "/etc/ssl/cast.example.com.key": str(key),
    }
    with nginx(folder, _replaced(block("nginx"), ours)):
        yield f"https://127.0.0.1:{port}"


@contextmanager
def documented_caddy(folder: Path, origin: str) -> Iterator[str]:
    """Caddy with the block of the page; only ports, names and paths are replaced."""
    program = needed("caddy")
    folder.mkdir(exist_ok=True)
    port, (made, key) = free_port(), certificate(folder)
    place = f"https://127.0.0.1:{port}"
    ours = {"cast.example.com {": f"{place} {{\n    tls {made} {key}", "127.0.0.1:8000": origin.removeprefix("http://")}
    whole = "{\n    admin off\n    auto_https disable_redirects\n}\n" + _replaced(block("caddyfile"), ours)
    (folder / "Caddyfile").write_text(whole)
    command = [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with running(command, folder / "caddy.log", [str(port)], **homes):
        yield place


def _replaced(text: str, ours: dict[str, str]) -> str:
    for shown, real in ours.items():
        assert shown in text, f"the page's block has no {shown!r}"
        text = text.replace(shown, real)
    return text


@contextmanager
def running(command: list[str], log: Path, ports: list[str], **environment: str) -> Iterator[None]:
    """A server that listens at these ports, for as long as the body lasts."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)  # noqa: S603
    try:
        for port in ports:
            _wait(process, int(port), log)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Return when something listens there."""
    for _ in range(1000):
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"nothing listens on {port}: {log.read_text()}")
