"""The one reader of the environment and of `.env`; a bad value is one line that names its variable.

`Settings` is the installation's own; every provider has a `ProviderSettings` of its own in its adapter, with its
defaults and its prefix.
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

from proxy.core.origins import normalized

AnySettings = TypeVar("AnySettings", bound=BaseSettings)

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadSetting(Exception):
    """A setting that stops the start; the message names it and says what would be right."""


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
    # Written otherwise, a word that closes or opens the metrics would be a token that anyone guesses.
    folded = _lower_case(value)
    return folded if folded in {"public", "off"} else value


Duration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds, also written `90s`, `15m`, `12h`, `7d`."""

_FILE: Final = ".env"
_PREFIX: Final = "pollcast_"
_LIKENESS: Final = 0.6
"""How similar a name is to the setting that a warning suggests; difflib's own default."""
_LIKENESS_TO_PROVIDERS: Final = 0.5
"""The same for a provider's settings: lower, because GAIA_URL is to find GAIA_BASE_URL (0.55)."""
_ENVIRONMENT = SettingsConfigDict(
    # With `-sig` a byte order mark is skipped, which some versions of python-dotenv make part of the first name.
    env_file=_FILE,
    env_file_encoding="utf-8-sig",
    extra="ignore",
    env_ignore_empty=True,
    frozen=True,
    allow_inf_nan=False,
)


def _is_http(parts: SplitResult) -> bool:
    """Whether it is a URL of http or https; ValueError where its port is no port, which is only then looked at."""
    return parts.scheme in {"http", "https"} and parts.port != 0


def _proxy(url: SecretStr) -> SecretStr:
    """An HTTP proxy's URL; what is wrong with it is said without the URL, which may hold a password."""
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
"""The URL of an HTTP proxy, with the credentials for it, if it wants any."""


def proxy_secrets(proxy: SecretStr | None) -> list[str]:
    """What of a proxy's URL must not be shown: its credentials, in each form in which they are sent or written."""
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
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str = ""
    store: str = "sqlite:///var/pollcast.db"
    assets: str = "var/assets"
    asset_limit: int = Field(default=64 << 20, gt=0)
    """The largest asset, in bytes."""
    secret: SecretStr | None = None
    """A comma list: the first signs, all are believed."""
    metrics: Annotated[SecretStr, BeforeValidator(_scrapers)] = SecretStr("")
    """Who reads /metrics: this machine (empty), `public`, `off`, or whoever has this bearer token."""
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_comma_list)] = Field(default_factory=list)
    heartbeat: Duration = Field(default=4, gt=0)
    keepalive: Duration = Field(default=75, gt=0)
    """Seconds for which an idle connection is kept open: longer than the proxies in front usually keep it."""
    retention: Duration = Field(default=7 * 86400.0, gt=0)
    results: Literal["direct", "relay"] = "direct"
    lease: Duration = Field(default=30, gt=0)
    """Seconds after which the jobs of a node that is not heard of any more are taken over."""
    drain: Duration = Field(default=0, ge=0)
    """Seconds that submits, and upstream streams which cannot be resumed, are still waited for at a stop."""
    tokens: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    log: Literal["console", "json"] = "console"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)] = "info"
    playground: Literal["on", "off"] = "on"
    max_jobs: int = Field(default=20_000, ge=0)
    """Unfinished jobs of an account at once; 0: any number. So the other two."""
    queue: int = Field(default=0, ge=0)
    """Orders of an account that wait while it has as many unfinished jobs as it may; with 0 they are refused."""
    max_requests: int = Field(default=60_000, ge=0)
    """Requests of an account in a minute, event streams not counted."""
    max_streams: int = Field(default=100_000, ge=0)
    """Open streams of an account on this node."""
    upstream_proxy: ProxyUrl | None = None
    """The HTTP proxy for requests to providers; clients' URLs are read directly."""
    max_uploads: int = Field(default=32, ge=0)
    """Uploads of an account that are under way at once on this node; each holds some 15 MiB of memory at most."""
    trace: str = ""
    """The folder in which exchanges with providers are recorded; none, none are."""

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
    def _none_blank(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not all(part.strip() for part in secret.get_secret_value().split(",")):
            raise ValueError("must not be blank, nor any of a comma list: whoever guesses one can forge Links")
        return secret

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        return [normalized(origin) for origin in origins]

    @property
    def secrets(self) -> list[str]:
        """What signs Links, the newest first; empty when it is left to the store."""
        return [part.strip() for part in self.secret.get_secret_value().split(",")] if self.secret else []

    @property
    def base_url(self) -> str:
        """The base of every Link: `public_url`, or the address that is listened on."""
        return self.public_url or f"http://{in_brackets(self.host)}:{self.port}"


class ClientSettings(BaseSettings):
    """What the client commands are told: which server, and with which key."""

    model_config = SettingsConfigDict(**_ENVIRONMENT | {"env_prefix": "POLLCAST_"})

    server: str = "http://127.0.0.1:8000"
    key: SecretStr = SecretStr("")

    @field_validator("server")
    @classmethod
    def _origin(cls, url: str) -> str:
        parts = urlsplit(url)
        if not (_is_http(parts) and parts.hostname):
            raise ValueError("must be a server's URL, such as https://cast.example.com")
        return url.rstrip("/")


class ProviderSettings(BaseSettings):
    """What every provider can be told; a subclass gives the prefix, the base URL and other defaults."""

    model_config = _ENVIRONMENT

    api_key: SecretStr | None = None
    base_url: str
    poll_interval: float = Field(default=2, gt=0)
    """Seconds before the first poll and between those of a job that may end now; others are asked more rarely."""
    deadline: float = Field(default=1800, gt=0)
    """Seconds from acceptance to the end that Pollcast itself makes."""
    concurrency: int = Field(default=64, gt=0)
    """Orders under way at the provider at once; the next one waits."""
    rate: float = Field(default=50, gt=0)
    """Requests per second."""
    proxy: ProxyUrl | None = None
    """The HTTP proxy for this provider; the installation's (`through`) where it has none of its own."""

    @field_validator("poll_interval", "deadline", mode="before")
    @classmethod
    def _durations(cls, value: Any) -> Any:
        # Not in their types: a subclass with another default would have to say it again.
        return _seconds(value)

    @field_validator("base_url")
    @classmethod
    def _origin(cls, url: str) -> str:
        parts = urlsplit(url)
        plain = _is_http(parts) and parts.hostname and "@" not in parts.netloc
        # A path in front is let through: a gateway may serve several providers under one host.
        if not plain or parts.query or parts.fragment or re.search(r"/v\d+/?$", parts.path):
            raise ValueError("must be an origin such as https://api.example.com, without /v1")
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _one_word(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[\x21-\x7e]*", key.get_secret_value()):
            raise ValueError("must be one word of printable ASCII, as a header can carry it")
        return key

    @property
    def key(self) -> str:
        """The provider's key; empty when it has none here."""
        return self.api_key.get_secret_value() if self.api_key else ""


AnyProvider = TypeVar("AnyProvider", bound=ProviderSettings)


def through(own: AnyProvider, settings: Settings) -> AnyProvider:
    """A provider's settings, with the installation's proxy where it has none of its own."""
    return own if own.proxy else own.model_copy(update={"proxy": settings.upstream_proxy})


def load(kind: type[AnySettings], **given: Any) -> AnySettings:
    """Read settings from the environment, `given` values first; raises BadSetting."""
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

    That is every `POLLCAST_*` that no setting reads. Other programs may use a provider's prefix, so a variable with one
    needs a setting of the same provider, one of `kinds`, with a similar name.
    """
    _check_file()
    told = []
    names = _known_names(kinds)
    for name in {**EnvSettingsSource(Settings).env_vars, **DotEnvSettingsSource(Settings).env_vars}:
        for prefix, known in names.items():
            own = name.removeprefix(prefix)
            if own == name or own in known:
                continue
            likeness = _LIKENESS if prefix == _PREFIX else _LIKENESS_TO_PROVIDERS
            found = get_close_matches(own, known, 1, likeness)
            nearest = "".join(f"; the nearest is {(prefix + near).upper()}" for near in found)
            if nearest or prefix == _PREFIX:
                told.append(f"{name.upper()} is no setting{nearest}")
    return told


def _known_names(kinds: Iterable[type[ProviderSettings]]) -> dict[str, list[str]]:
    """The names of settings by their prefix, in lower case."""
    names = {_PREFIX: [*Settings.model_fields, *ClientSettings.model_fields]}
    return names | {kind.model_config["env_prefix"].lower(): [*kind.model_fields] for kind in kinds}


def _check_file() -> None:
    """Raises BadSetting unless `.env`, where there is one, can be read as UTF-8."""
    file = Path(_FILE)
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
    """A host as a URL writes it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine's own, so that nobody else can open it."""
    host = urlsplit(url).hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
