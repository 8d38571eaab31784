"""Settings: defaults, invalid values, and errors that name the variable."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from proxy.core.settings import BadSetting, ProviderSettings, Settings, is_loopback, load, unknown_variables
from proxy.providers.gaga import GagaSettings
from proxy.providers.ganai import GanAiSettings
from proxy.providers.registry import ProviderKind, prefix_of
from tests.support.registry import REGISTRY

SETTINGS_TYPES = [kind.settings_type for kind in REGISTRY.providers]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


# --- values ---


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load(Settings)
    own = {"asset_limit", "drain", "trace", "max_jobs", "queue", "max_requests", "max_streams", "max_uploads"}
    assert settings.model_dump(exclude=own) == {
        "host": "127.0.0.1",
        "port": 8000,
        "public_url": "",
        "store": "sqlite:///var/pollcast.db",
        "assets": "var/assets",
        "secret": None,
        "cors_origins": [],
        "heartbeat": 4,
        "keepalive": 75,
        "retention": 604_800,
        "lease": 30,
        "results": "direct",
        "providers": "",
        "models": [],
        "tokens": {},
        "log": "console",
        "log_level": "info",
        "playground": "on",
        "metrics": SecretStr(""),
        "upstream_proxy": None,
    }


def test_the_seconds_that_streams_are_drained_are_a_setting(env: pytest.MonkeyPatch) -> None:
    assert load(Settings).model_dump()["drain"] == 0
    env.setenv("POLLCAST_DRAIN", "30")
    assert load(Settings).model_dump()["drain"] == 30


def test_offered_models_are_separated_by_commas(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_MODELS", "gaga-1, fal/*")
    assert load(Settings).models == ["gaga-1", "fal/*"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (".5", 0.5),
        ("90s", 90),
        ("1.5m", 90),
        ("15m", 900),
        ("12h", 43_200),
        ("7d", 604_800),
        (" 7 d ", 604_800),
    ],
)
def test_a_duration_is_seconds_or_has_a_unit(env: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    env.setenv("POLLCAST_RETENTION", text)
    assert load(Settings).retention == seconds


@pytest.mark.parametrize("name", ["heartbeat", "keepalive", "retention", "lease", "drain"])
def test_every_duration_takes_a_unit(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv(f"POLLCAST_{name.upper()}", "2m")
    assert getattr(load(Settings), name) == 120


@pytest.mark.parametrize("kind", REGISTRY.providers, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["poll_interval", "deadline"])
def test_every_duration_of_a_provider_takes_a_unit(env: pytest.MonkeyPatch, kind: ProviderKind, name: str) -> None:
    env.setenv(f"{prefix_of(kind)}{name.upper()}", "2m")
    assert getattr(load(kind.settings_type), name) == 120


@pytest.mark.parametrize("text", ["7 days", "7w", "soon", "d", "inf", "nan"])
def test_the_error_of_an_invalid_duration_shows_a_valid_one(env: pytest.MonkeyPatch, text: str) -> None:
    env.setenv("POLLCAST_RETENTION", text)
    assert complaint(Settings) == "POLLCAST_RETENTION: write 90s, 15m, 12h or 7d"


@pytest.mark.parametrize(("text", "meant"), [("Public", "public"), ("OFF", "off"), ("Office", "Office")])
def test_public_and_off_ignore_case_but_a_token_keeps_it(env: pytest.MonkeyPatch, text: str, meant: str) -> None:
    env.setenv("POLLCAST_METRICS", text)
    assert load(Settings).metrics.get_secret_value() == meant


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ["*"]),
        ("https://a.example", ["https://a.example"]),
        (" https://a.example ,, https://b.example:8443,", ["https://a.example", "https://b.example:8443"]),
        (",", []),
    ],
)
def test_the_origins_are_a_comma_list(env: pytest.MonkeyPatch, text: str, origins: list[str]) -> None:
    env.setenv("POLLCAST_CORS_ORIGINS", text)
    assert load(Settings).cors_origins == origins


def test_a_log_level_is_written_in_any_case(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_LOG_LEVEL", "WARNING")
    assert load(Settings).log_level == "warning"


def test_the_prices_are_a_json_object(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_TOKENS", '{"gaga-1": 25, "suno": 0}')
    assert load(Settings).tokens == {"gaga-1": 25, "suno": 0}


@pytest.mark.parametrize("name", ["PORT", "SECRET", "CORS_ORIGINS", "RETENTION", "TOKENS", "RESULTS", "PUBLIC_URL"])
def test_an_empty_value_means_unset(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv(f"POLLCAST_{name}", "")
    assert load(Settings) == load(
        Settings, **{name.lower(): Settings.model_fields[name.lower()].get_default(call_default_factory=True)}
    )


def test_a_provider_s_key_that_is_empty_is_unset(env: pytest.MonkeyPatch) -> None:
    env.setenv("GAGA_API_KEY", "")
    assert load(GagaSettings).key == ""
    assert load(GagaSettings).api_key is None


def test_the_file_dot_env_is_read_and_the_environment_wins(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POLLCAST_PORT=9001\nPOLLCAST_HEARTBEAT=2\nGAGA_API_KEY=from-file\nOTHER=1\n")
    env.setenv("POLLCAST_HEARTBEAT", "3")
    assert (load(Settings).port, load(Settings).heartbeat) == (9001, 3)
    assert load(GagaSettings).key == "from-file"


def test_a_given_value_wins_over_the_environment(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_PORT", "9001")
    assert load(Settings, port=9002).port == 9002


def test_links_are_based_on_the_public_url_without_its_last_slash(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_PUBLIC_URL", "https://cast.example.com/")
    assert load(Settings).base_url == "https://cast.example.com"


def test_without_a_public_url_links_are_based_on_host_and_port(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_PORT", "9001")
    assert load(Settings).base_url == "http://127.0.0.1:9001"


def test_an_ipv6_host_is_in_brackets_in_the_base_url(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_HOST", "::1")
    assert load(Settings).base_url == "http://[::1]:8000"


# --- a provider's ---


def test_every_provider_reads_its_own_prefix(env: pytest.MonkeyPatch) -> None:
    for name, value in {
        "API_KEY": "sk-gaga",
        "BASE_URL": "https://gaga.example/",
        "POLL_INTERVAL": "0.5",
        "DEADLINE": "60",
        "CONCURRENCY": "3",
        "RATE": "7",
    }.items():
        env.setenv(f"GAGA_{name}", value)
    gaga, ganai = load(GagaSettings), load(GanAiSettings)
    assert (gaga.key, gaga.base_url) == ("sk-gaga", "https://gaga.example")
    assert (gaga.poll_interval, gaga.deadline, gaga.concurrency, gaga.rate) == (0.5, 60, 3, 7)
    assert (ganai.key, ganai.base_url, ganai.project_id) == ("", "https://api.gan.ai", "")


def test_the_project_of_gan_ai_is_a_setting(env: pytest.MonkeyPatch) -> None:
    env.setenv("GANAI_PROJECT_ID", "p-1")
    assert load(GanAiSettings).project_id == "p-1"


# --- invalid values ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLLCAST_PORT", "eighty"),
        ("POLLCAST_PORT", "65536"),
        ("POLLCAST_PORT", "-1"),
        ("POLLCAST_TOKENS", "gaga-1=20"),
        ("POLLCAST_TOKENS", "[1]"),
        ("POLLCAST_TOKENS", '{"gaga-1": -1}'),
        ("POLLCAST_TOKENS", '{"gaga-1": "twenty"}'),
        ("POLLCAST_RETENTION", "soon"),
        ("POLLCAST_RETENTION", "7w"),
        ("POLLCAST_RETENTION", "0"),
        ("POLLCAST_RETENTION", "-1d"),
        ("POLLCAST_HEARTBEAT", "0"),
        ("POLLCAST_KEEPALIVE", "0"),
        ("POLLCAST_RESULTS", "both"),
        ("POLLCAST_PUBLIC_URL", "cast.example.com"),
        ("POLLCAST_PUBLIC_URL", "ftp://cast.example.com"),
        ("POLLCAST_ASSET_LIMIT", "0"),
        ("POLLCAST_LOG", "xml"),
        ("POLLCAST_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(env: pytest.MonkeyPatch, name: str, value: str) -> None:
    env.setenv(name, value)
    assert complaint(Settings).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GAGA_BASE_URL", "api.gaga.art"),
        ("GAGA_BASE_URL", "localhost:8000"),
        ("GAGA_BASE_URL", "https://"),
        ("GAGA_BASE_URL", "ftp://api.gaga.art"),
        ("GAGA_BASE_URL", "https://[::1"),
        ("GAGA_POLL_INTERVAL", "0"),
        ("GAGA_DEADLINE", "late"),
        ("GAGA_CONCURRENCY", "0"),
        ("GAGA_CONCURRENCY", "1.5"),
        ("GAGA_RATE", "0"),
    ],
)
def test_a_bad_setting_of_a_provider_is_one_line_that_names_it(env: pytest.MonkeyPatch, name: str, value: str) -> None:
    env.setenv(name, value)
    assert complaint(GagaSettings).startswith(f"{name}: ")


def complaint(kind: Any) -> str:
    with pytest.raises(BadSetting) as caught:
        load(kind)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_error_of_an_invalid_price_names_its_model(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_TOKENS", '{"gaga-1": -5}')
    assert complaint(Settings).startswith("POLLCAST_TOKENS: 'gaga-1': ")


def test_prices_that_are_not_json_are_refused(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_TOKENS", "gaga-1=20")
    assert complaint(Settings) == "POLLCAST_TOKENS: must be JSON"


def test_an_invalid_base_url_is_refused_with_a_valid_example(env: pytest.MonkeyPatch) -> None:
    env.setenv("GAGA_BASE_URL", "api.gaga.art")
    assert complaint(GagaSettings) == "GAGA_BASE_URL: must be an origin such as https://api.example.com, without /v1"


@pytest.mark.parametrize("url", ["https://api.gaga.art/v1", "https://api.gaga.art?x=1", "https://user:pw@api.gaga.art"])
def test_a_base_url_with_more_than_an_origin_is_refused(env: pytest.MonkeyPatch, url: str) -> None:
    env.setenv("GAGA_BASE_URL", url)
    assert complaint(GagaSettings).startswith("GAGA_BASE_URL: must be an origin")


@pytest.mark.parametrize("port", ["0", "99999", "http"])
def test_a_url_with_an_invalid_port_is_refused_by_setting_name(env: pytest.MonkeyPatch, port: str) -> None:
    env.setenv("GAGA_BASE_URL", f"http://gateway.example:{port}")
    with pytest.raises(BadSetting, match="GAGA_BASE_URL"):
        load(GagaSettings)
    env.setenv("POLLCAST_PUBLIC_URL", f"http://cast.example:{port}")
    with pytest.raises(BadSetting, match="POLLCAST_PUBLIC_URL"):
        load(Settings)


def test_a_base_url_may_have_a_path_in_front(env: pytest.MonkeyPatch) -> None:
    env.setenv("GAGA_BASE_URL", "https://gateway.example/gaga/")
    assert load(GagaSettings).base_url == "https://gateway.example/gaga"


@pytest.mark.parametrize("url", ["https://", "https:///path", "http://[::1"])
def test_a_public_url_needs_a_host(env: pytest.MonkeyPatch, url: str) -> None:
    env.setenv("POLLCAST_PUBLIC_URL", url)
    assert complaint(Settings).startswith("POLLCAST_PUBLIC_URL: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLLCAST_SECRET", " "),
        ("POLLCAST_SECRET", "new,"),
        ("POLLCAST_SECRET", "new,,old"),
        ("POLLCAST_CORS_ORIGINS", "app.example.com"),
        ("POLLCAST_CORS_ORIGINS", "https://app.example.com/path"),
        ("POLLCAST_PUBLIC_URL", "https://cast.example.com/?a=b"),
        ("POLLCAST_HEARTBEAT", "inf"),
    ],
)
def test_a_value_that_would_only_fail_later_is_refused_now(env: pytest.MonkeyPatch, name: str, value: str) -> None:
    env.setenv(name, value)
    assert complaint(Settings).startswith(f"{name}: ")


def test_a_provider_key_unfit_for_a_header_is_refused_unquoted(env: pytest.MonkeyPatch) -> None:
    env.setenv("GAGA_API_KEY", "sk-one\ntwo")
    assert complaint(GagaSettings).startswith("GAGA_API_KEY: ")
    assert "sk-one" not in complaint(GagaSettings)


# --- unknown variables ---


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("POLLCAST_CORS_ORIGIN", "POLLCAST_CORS_ORIGIN is not a setting; the nearest is POLLCAST_CORS_ORIGINS"),
        ("POLLCAST_MAXJOBS", "POLLCAST_MAXJOBS is not a setting; the nearest is POLLCAST_MAX_JOBS"),
        ("POLLCAST_XYZZY", "POLLCAST_XYZZY is not a setting"),
    ],
)
def test_an_unknown_setting_is_reported_with_the_nearest_known(env: pytest.MonkeyPatch, name: str, line: str) -> None:
    env.setenv(name, "5")
    assert unknown_variables() == [line]


def test_an_unknown_setting_in_dot_env_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POLLCAST_RETENTIONS=7d\n")
    assert unknown_variables() == ["POLLCAST_RETENTIONS is not a setting; the nearest is POLLCAST_RETENTION"]


def test_server_client_and_foreign_variables_are_not_reported(env: pytest.MonkeyPatch) -> None:
    for name in ("POLLCAST_PORT", "pollcast_host", "POLLCAST_KEY", "POLLCAST_SERVER", "GAGA_VERSION", "POLL"):
        env.setenv(name, "1")
    assert unknown_variables() == []


def test_an_unknown_setting_that_is_empty_is_unset(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_MAXJOBS", "")
    assert unknown_variables() == []


# --- secrets ---


@pytest.mark.parametrize(
    ("text", "secrets"), [("", []), ("one", ["one"]), ("new, old", ["new", "old"]), ("c,b,a", ["c", "b", "a"])]
)
def test_secrets_of_links_are_a_comma_list_the_newest_first(
    env: pytest.MonkeyPatch, text: str, secrets: list[str]
) -> None:
    env.setenv("POLLCAST_SECRET", text)
    assert load(Settings).secrets == secrets


def test_no_secret_appears_in_a_repr(env: pytest.MonkeyPatch) -> None:
    env.setenv("POLLCAST_SECRET", "hush-1")
    env.setenv("GAGA_API_KEY", "hush-2")
    for settings in (load(Settings), load(GagaSettings)):
        assert "hush" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert load(GagaSettings).key == "hush-2"


def test_the_error_of_a_bad_setting_contains_no_secret(env: pytest.MonkeyPatch) -> None:
    env.setenv("GAGA_API_KEY", "hush-2")
    env.setenv("GAGA_RATE", "0")
    assert "hush" not in complaint(GagaSettings)


def test_settings_cannot_be_changed() -> None:
    settings: Any = load(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_an_adapter_s_settings_keep_the_common_rules() -> None:
    class NewSettings(ProviderSettings):
        model_config = SettingsConfigDict(env_prefix="NEW_")
        base_url: str = "https://api.new.example"

    assert NewSettings.model_config["env_ignore_empty"]
    assert NewSettings.model_config["env_prefix"] == "NEW_"


# --- this machine ---


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://127.8.8.8",
        "http://[::1]:8000/path",
        "http://localhost",
        "https://LOCALHOST:8443",
        "http://cast.localhost:8000",
    ],
)
def test_this_machine_s_own_hosts_are_loopback(url: str) -> None:
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://cast.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://notlocalhost",
        "",
        "localhost",
    ],
)
def test_other_hosts_are_not(url: str) -> None:
    assert not is_loopback(url)


def test_the_default_stream_limit_is_at_least_ten_thousand() -> None:
    assert load(Settings).max_streams >= 10_000


# --- the file .env ---

LINE = "POLLCAST_PORT=9001\nPOLLCAST_SECRET=caf\u00e9-hush\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_utf_16_is_one_line_that_names_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes(LINE.encode(encoding))
    assert complaint(Settings) == f"{tmp_path / '.env'}: is in UTF-16, not in UTF-8: save it as UTF-8"
    with pytest.raises(BadSetting, match="UTF-16"):
        unknown_variables()


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437"])
def test_a_file_in_latin_1_is_one_line_that_names_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes(LINE.encode(encoding))
    for kind in (Settings, GagaSettings):
        assert complaint(kind).startswith(f"{tmp_path / '.env'}: line 2 is not in UTF-8")
        assert "hush" not in complaint(kind)


def test_a_byte_order_mark_in_the_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbf" + LINE.encode())
    assert (load(Settings).port, load(Settings).secrets) == (9001, ["caf\u00e9-hush"])
    assert unknown_variables() == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GAGA_APIKEY", "GAGA_API_KEY"),
        ("HEYGEN_KEY", "HEYGEN_API_KEY"),
        ("GAIA_URL", "GAIA_BASE_URL"),
        ("AINOW_POLLINTERVAL", "AINOW_POLL_INTERVAL"),
        ("GANAI_PROJECT", "GANAI_PROJECT_ID"),
        ("GAGA_TOKEN_API_KEY", "GAGA_API_KEY"),
    ],
)
def test_a_misspelled_provider_setting_is_reported_with_the_nearest(
    env: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    env.setenv("A_FIRST_ONE", "x")
    env.setenv(name, "x")
    assert unknown_variables(iter(SETTINGS_TYPES)) == [f"{name} is not a setting; the nearest is {nearest}"]


def test_other_variables_with_a_provider_s_prefix_are_not_unknown(env: pytest.MonkeyPatch) -> None:
    for name in ("GAGA_VERSION", "GAIA_HOME", "HEYGEN_XYZZY", "GAGA_API_KEY", "GANAI_PROJECT_ID", "GAGARIN"):
        env.setenv(name, "1")
    assert unknown_variables(SETTINGS_TYPES) == []


# --- addresses ---


@pytest.mark.parametrize(
    ("written", "base"),
    [("::", "http://[::]:8000"), ("[::]", "http://[::]:8000"), ("[::1]", "http://[::1]:8000")],
)
def test_an_ipv6_host_is_taken_with_and_without_brackets(env: pytest.MonkeyPatch, written: str, base: str) -> None:
    env.setenv("POLLCAST_HOST", written)
    assert load(Settings).base_url == base
    assert load(Settings).host == written.strip("[]")


@pytest.mark.parametrize("written", ["[::1]:8000", "127.0.0.1:8000", "[localhost]", "::1::", "http://0.0.0.0"])
def test_a_host_that_is_more_than_an_address_is_refused(env: pytest.MonkeyPatch, written: str) -> None:
    env.setenv("POLLCAST_HOST", written)
    assert complaint(Settings).startswith("POLLCAST_HOST: must be a name or an address alone")
