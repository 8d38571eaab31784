"""Settings. This module is the only reader of the environment and of `.env`.

`Settings` are those of the installation (`POLLCAST_*`). Each adapter has a subclass of `ProviderSettings` with its own
prefix and defaults. An invalid value raises an error whose one line names the variable. `proxy/docs/settings.md` lists
all settings.
"""

import base64
import codecs
import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
)

from proxy.core.origins import normalize

AnySettings = TypeVar("AnySettings", bound=BaseSettings)

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadSetting(Exception):
    """A setting is invalid. The message names it and describes a valid value."""


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip()
    unit = text[-1:] if text[-1:] in _UNITS else ""
    try:
        seconds = float(text.removesuffix(unit)) * _UNITS.get(unit, 1)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError("write 90s, 15m, 12h or 7d")
    return seconds


def _comma_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _scrapers(value: Any) -> Any:
    # In another case, `Public` or `OFF` would be read as a bearer token that is easily guessed.
    folded = _lower_case(value)
    return folded if folded in {"public", "off"} else value


Duration = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)]
"""A duration in seconds, also written as `90s`, `15m`, `12h` or `7d`."""

_ENV_FILE: Final = ".env"
_PREFIX: Final = "pollcast_"
_MIN_SIMILARITY: Final = 0.6
"""Smallest similarity of a variable to the setting that a warning suggests; the default of difflib."""
_MIN_PROVIDER_SIMILARITY: Final = 0.5
"""The same for a provider's settings. It is lower because GAIA_URL must find GAIA_BASE_URL (0.55)."""
_ENVIRONMENT = SettingsConfigDict(
    # `-sig` skips a byte order mark, which some versions of python-dotenv take for part of the first name.
    env_file=_ENV_FILE,
    env_file_encoding="utf-8-sig",
    extra="ignore",
    env_ignore_empty=True,
    frozen=True,
    allow_inf_nan=False,
)


def _is_http(parts: SplitResult) -> bool:
    """Return whether a URL uses http or https. Raises ValueError if its port is invalid."""
    return parts.scheme in {"http", "https"} and parts.port != 0


def _proxy(url: SecretStr) -> SecretStr:
    """Validate the URL of an HTTP proxy. The error does not quote the URL, which may contain a password."""
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        usable = parts.scheme == "http" and parts.hostname and parts.port != 0 and parts.path in {"", "/"}
        usable = usable and not (parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("must be the URL of an HTTP proxy, such as http://user:password@proxy.example.com:3128")
    return url


ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy)]
"""The URL of an HTTP proxy, with its credentials if it needs any."""


def proxy_secrets(proxy: SecretStr | None) -> list[str]:
    """Return the secrets of a proxy's URL: its credentials, in each form in which they are sent or written."""
    text = proxy.get_secret_value() if proxy else ""
    written = urlsplit(text).netloc.rpartition("@")[0]
    if not written:
        return []
    user, _, password = map(unquote, written.partition(":"))
    sent = base64.b64encode(f"{user}:{password}".encode("latin-1", errors="replace")).decode()
    words = (text, written, sent, password or user, written.partition(":")[2])
    return list(dict.fromkeys(filter(None, words)))


class Settings(BaseSettings):
    """The installation's settings: `POLLCAST_*`."""

    model_config = SettingsConfigDict(**_ENVIRONMENT | {"env_prefix": "POLLCAST_"})

    host: str = "127.0.0.1"
    """Address to listen on. `::` listens on all addresses of both IPv6 and IPv4."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on."""
    public_url: str = ""
    """Base of every Link, as clients see it; `http://HOST:PORT` if empty. It may have a path. The proxy in front may
    strip that path or pass it on."""
    store: str = "sqlite:///var/pollcast.db"
    """The store: SQLite (four slashes for an absolute path) or Redis (`redis://`, `rediss://`)."""
    assets: str = "var/assets"
    """Storage of assets and of inline results: a directory, or the URL of an object store (`s3://bucket/prefix`)."""
    asset_limit: int = Field(default=64 << 20, gt=0)
    """Largest size of an asset, in bytes; also the largest sum of an order's inputs, assets and URLs. Where the bytes
    are part of the provider's request, as at Gaia, each mention counts. HeyGen v1 opens media itself, so its
    assets do not count."""
    secret: SecretStr | None = None
    """Secrets that sign Links, separated by commas. The first one signs; all are accepted. If empty, the store creates
    and keeps one. Set it if there are several nodes, because an emptied Redis would create another one."""
    metrics: Annotated[SecretStr, BeforeValidator(_scrapers)] = SecretStr("")
    """Access to `/metrics`: this machine only, without a proxy between (empty), `public`, `off`, or a bearer token."""
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_comma_list)] = Field(default_factory=list)
    """Origins of pages that may read answers, separated by commas, or `*`. `https://*.example.com` is every subdomain
    at any depth, without `example.com` itself. Apps (`capacitor://`, `ionic://`, `tauri://`, `app://`), extensions
    (`chrome-extension://ID`) and `null` are accepted. Each refused origin is logged once an hour."""
    heartbeat: Duration = Field(default=4, gt=0)
    """Interval, in seconds, of keep-alive comments on a silent stream. Keep it below 60, after which `pollcast.js`
    reconnects."""
    keepalive: Duration = Field(default=75, gt=0)
    """Time, in seconds, for which an idle connection stays open. It must exceed the idle time of the proxy in front
    (Google's load balancer: 600)."""
    retention: Duration = Field(default=7 * 86400.0, gt=0)
    """Time, in seconds (7 days), after which finished jobs, their outputs and assets are deleted. Links to them are
    valid for the same time. Ledger entries are never deleted."""
    results: Literal["direct", "relay"] = "direct"
    """`direct`: an output's `url` is the provider's where that is public. `relay`: it is always a Link."""
    lease: Duration = Field(default=30, gt=0)
    """Time, in seconds, after which other nodes take over the jobs of a silent node. Equal on all nodes."""
    drain: Duration = Field(default=0, ge=0)
    """Time, in seconds, that a shutdown waits for submits and for streams that a provider cannot resume."""
    providers: str = ""
    """Folder of provider files (TOML). Empty: only the files that come with Pollcast."""
    models: Annotated[list[str], NoDecode, BeforeValidator(_comma_list)] = Field(default_factory=list)
    """The models that are offered, separated by commas: names, or prefixes that end in `*`. Empty: all."""
    tokens: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Prices that differ from the catalogue, as JSON: `{"gaga-1": 25}`."""
    log: Literal["console", "json"] = "console"
    """Format of the log on standard error: `console`, or `json` for one object per line."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)] = "info"
    """Least severe level that is logged: `debug`, `info`, `warning` or `error`."""
    playground: Literal["on", "off"] = "on"
    """`off` removes the page at `/`. `/pollcast.js` is always served."""
    max_jobs: int = Field(default=20_000, ge=0)
    """Maximum of unfinished jobs of an account. 0 is no limit, also for the other `MAX` settings."""
    queue: int = Field(default=0, ge=0)
    """Size of an account's backlog, for orders beyond `POLLCAST_MAX_JOBS`. With 0 they are refused."""
    max_requests: int = Field(default=60_000, ge=0)
    """Maximum of an account's requests with a key per minute, in a sliding window. Event streams do not count."""
    max_streams: int = Field(default=100_000, ge=0)
    """Maximum of an account's open streams on one node; with `--workers`, in one worker."""
    upstream_proxy: ProxyUrl | None = None
    """The HTTP proxy for requests to providers: `http://user:password@host:3128`. Clients' URLs are read without it."""
    max_uploads: int = Field(default=32, ge=0)
    """Maximum of an account's concurrent uploads on one node. Each uses at most about 15 MiB of memory."""
    trace: str = ""
    """Folder for traces of the exchanges with providers, which `trace JOB` prints. Empty: no traces."""

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if bare != host or ":" in host:
            try:
                IPv6Address(bare)
            except ValueError:
                raise ValueError("must be a name or an address alone, such as 0.0.0.0 or ::") from None
        return bare

    @field_validator("public_url")
    @classmethod
    def _absolute(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and not (_is_http(parts) and parts.hostname):
            raise ValueError("must be an absolute http or https URL, such as https://cast.example.com")
        if parts.query or parts.fragment:
            raise ValueError("must be a URL without ? and #: paths are added to it")
        return url.rstrip("/")

    @field_validator("secret")
    @classmethod
    def _require_secrets(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not all(part.strip() for part in secret.get_secret_value().split(",")):
            raise ValueError("must not contain a blank secret, with which anyone could forge Links")
        return secret

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        return [normalize(origin) for origin in origins]

    @property
    def secrets(self) -> list[str]:
        """The secrets that sign Links, the newest first; empty if the store provides one."""
        return [part.strip() for part in self.secret.get_secret_value().split(",")] if self.secret else []

    @property
    def base_url(self) -> str:
        """The base of every Link: `public_url`, or else the address of the server."""
        return self.public_url or f"http://{in_brackets(self.host)}:{self.port}"


class ClientSettings(BaseSettings):
    """Settings of the client commands: the server and the API key."""

    model_config = SettingsConfigDict(**_ENVIRONMENT | {"env_prefix": "POLLCAST_"})

    server: str = "http://127.0.0.1:8000"
    """URL of the server."""
    key: SecretStr = SecretStr("")
    """API key of the account."""

    @field_validator("server")
    @classmethod
    def _origin(cls, url: str) -> str:
        parts = urlsplit(url)
        if not (_is_http(parts) and parts.hostname):
            raise ValueError("must be a server's URL, such as https://cast.example.com")
        return url.rstrip("/")


class ProviderSettings(BaseSettings):
    """Settings of a provider. A subclass sets the prefix, the base URL and other defaults."""

    model_config = _ENVIRONMENT

    api_key: SecretStr | None = None
    """The operator's API key. Without it the provider's models are unavailable."""
    base_url: str
    """Origin of the provider's API, without `/v1`."""
    poll_interval: float = Field(default=2, gt=0)
    """Time, in seconds, before the first poll, and between polls while a job may end; other polls are rarer."""
    deadline: float = Field(default=1800, gt=0)
    """Time, in seconds, that an order may take. An order may also wait that long for room before it is sent."""
    concurrency: int = Field(default=64, gt=0)
    """Maximum of concurrent jobs at the provider. Further orders wait."""
    rate: float = Field(default=50, gt=0)
    """Maximum of requests per second."""
    proxy: ProxyUrl | None = None
    """The HTTP proxy for this provider, instead of `POLLCAST_UPSTREAM_PROXY`."""

    @field_validator("poll_interval", "deadline", mode="before")
    @classmethod
    def _durations(cls, value: Any) -> Any:
        # A validator, because as a type each subclass with another default must repeat it.
        return _seconds(value)

    @field_validator("base_url")
    @classmethod
    def _origin(cls, url: str) -> str:
        parts = urlsplit(url)
        plain = _is_http(parts) and parts.hostname and "@" not in parts.netloc
        # A path is allowed, because a gateway may serve several providers under one host.
        if not plain or parts.query or parts.fragment or re.search(r"/v\d+/?$", parts.path):
            raise ValueError("must be an origin such as https://api.example.com, without /v1")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _require_ascii(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[\x21-\x7e]*", key.get_secret_value()):
            raise ValueError("must be one word of printable ASCII, as a header can carry it")
        return key

    @property
    def key(self) -> str:
        """The provider's API key; empty if none is set."""
        return self.api_key.get_secret_value() if self.api_key else ""


AnyProvider = TypeVar("AnyProvider", bound=ProviderSettings)


def through(own: AnyProvider, settings: Settings) -> AnyProvider:
    """Return a provider's settings, with the installation's proxy if it has none."""
    return own if own.proxy else own.model_copy(update={"proxy": settings.upstream_proxy})


def load(kind: type[AnySettings], **given: Any) -> AnySettings:
    """Read settings from the environment. Values in `given` take precedence. Raises BadSetting."""
    _check_file()
    prefix = kind.model_config.get("env_prefix", "")
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = first["loc"] or ("",)
        message = first["msg"].removeprefix("Value error, ")
        raise BadSetting(": ".join([f"{prefix}{name}".upper(), *map(repr, inside), message])) from None
    except SettingsError as error:
        named = re.search(r'field "(\w+)"', str(error))
        raise BadSetting(f"{prefix}{named[1] if named else ''}".upper() + ": must be JSON") from None


def unknown_variables(kinds: Iterable[type[ProviderSettings]] = ()) -> list[str]:
    """Describe each variable in the environment and in `.env` that is probably a misspelled setting.

    This includes every unknown `POLLCAST_*`. Other programs may use a provider's prefix, so such a variable is only
    reported if it resembles a setting of that provider, one of `kinds`.
    """
    _check_file()
    found_names = []
    names = _known_names(kinds)
    for name in {**EnvSettingsSource(Settings).env_vars, **DotEnvSettingsSource(Settings).env_vars}:
        for prefix, known in names.items():
            own = name.removeprefix(prefix)
            if own == name or own in known:
                continue
            similarity = _MIN_SIMILARITY if prefix == _PREFIX else _MIN_PROVIDER_SIMILARITY
            found = get_close_matches(own, known, 1, similarity)
            nearest = "".join(f"; the nearest is {(prefix + near).upper()}" for near in found)
            if nearest or prefix == _PREFIX:
                found_names.append(f"{name.upper()} is not a setting{nearest}")
    return found_names


def _known_names(kinds: Iterable[type[ProviderSettings]]) -> dict[str, list[str]]:
    """Return the names of all settings in lower case, by prefix."""
    names = {_PREFIX: [*Settings.model_fields, *ClientSettings.model_fields]}
    return names | {kind.model_config["env_prefix"].lower(): [*kind.model_fields] for kind in kinds}


def _check_file() -> None:
    """Raise BadSetting if there is a `.env` that cannot be read as UTF-8."""
    file = Path(_ENV_FILE)
    try:
        data = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise BadSetting(f"{file.absolute()}: cannot be read: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise BadSetting(f"{file.absolute()}: is in UTF-16, not in UTF-8: save it as UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadSetting(
            f"{file.absolute()}: line {line} is not in UTF-8, but perhaps in Latin-1: save the file as UTF-8"
        ) from None


def in_brackets(host: str) -> str:
    """Return a host as in a URL, with an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine, so that other machines cannot open it."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
