import os
import re
import traceback
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import SecretStr, ValidationError

from codegen_api import create_app
from codegen_api.settings import Settings, read_settings, suspicious_variables
from codegen_api.settings.environment import PREFIX, SettingsError, adapter_options

KEY = "0123456789abcdef" * 2
VALID: dict[str, tuple[str, Any]] = {
    "BASE_URL": ("http://127.0.0.1:9/", "http://127.0.0.1:9/"),
    "UPSTREAM": ("codegen", "codegen"),
    "ORG_ID": ("323", "323"),
    "API_TOKEN": ("sk-1", SecretStr("sk-1")),
    "DIALECTS": ("native, codegen,", ("native", "codegen")),
    "AUTH": ("token, jwt,key", ("token", "jwt", "key")),
    "JWT_ISSUER": ("https://issuer.example/", "https://issuer.example/"),
    "JWT_AUDIENCE": ("gateway", "gateway"),
    "JWT_AUDIENCE_CLAIM": ("client_id", "client_id"),
    "JWT_SCOPE_CLAIM": (
        "realm_access.roles, https://a.example/roles",
        ("realm_access.roles", "https://a.example/roles"),
    ),
    "JWT_SCOPE_PREFIX": ("gateway/", "gateway/"),
    "JWT_SCOPE_MAP": ("staff=runs:read", "staff=runs:read"),
    "JWT_JWKS_URL": ("https://issuer.example/keys?p=1", "https://issuer.example/keys?p=1"),
    "JWT_KEY": (KEY, SecretStr(KEY)),
    "JWT_ALGORITHMS": ("RS256,PS256,ES512,EdDSA", ("RS256", "PS256", "ES512", "EdDSA")),
    "JWT_LEEWAY_SECONDS": ("0", 0.0),
    "API_KEYS": ("ci digest=sha256:00", SecretStr("ci digest=sha256:00")),
    "API_KEYS_FILE": ("/run/secrets/keys", Path("/run/secrets/keys")),
    "SECRET_KEY": (KEY, SecretStr(KEY)),
    "HOST": ("0.0.0.0", "0.0.0.0"),
    "PORT": ("0", 0),
    "WORKERS": ("4", 4),
    "PUBLIC_URL": ("https://agents.example/gateway/", "https://agents.example/gateway"),
    "ROOT_PATH": ("/codegen", "/codegen"),
    "CORS_ORIGINS": ("https://a.example,https://b.example", ("https://a.example", "https://b.example")),
    "TRUSTED_HOSTS": ("A.example,*.b.example,[::1],10.0.0.1", ("a.example", "*.b.example", "[::1]", "10.0.0.1")),
    "TRUSTED_PROXIES": ("10.0.0.1,10.1.0.0/16,::1", ("10.0.0.1", "10.1.0.0/16", "::1")),
    "LOG_LEVEL": ("debug", "DEBUG"),
    "LOG_FORMAT": ("json", "json"),
    "UPSTREAM_REQUESTS_PER_MINUTE": ("120", 120),
    "UPSTREAM_READ_INTERVAL_SECONDS": ("0.5", 0.5),
    "UPSTREAM_BUDGET": ("gateway", "gateway"),
    "UPSTREAM_CONNECT_TIMEOUT_SECONDS": ("1.5", 1.5),
    "UPSTREAM_READ_TIMEOUT_SECONDS": ("10", 10.0),
    "TOKEN_CACHE_SECONDS": ("5", 5.0),
    "STREAM_MAX_AGE_SECONDS": ("60", 60.0),
    "STREAM_HEARTBEAT_SECONDS": ("0.5", 0.5),
    "STREAM_STALL_SECONDS": ("3", 3.0),
    "REQUESTS_PER_MINUTE": ("60", 60),
    "STREAMS_PER_CALLER": ("7", 7),
    "STREAMS_PER_PROCESS": ("70", 70),
    "FOLLOWER_LINGER_SECONDS": ("1", 1.0),
    "KEEP_ALIVE_SECONDS": ("620", 620.0),
    "DRAIN_SECONDS": ("2", 2.0),
    "MAX_BODY_MIB": ("2", 2),
    "MEMORY_MIB": ("64", 64),
    "DATA_DIR": ("/var/lib/gateway", Path("/var/lib/gateway")),
    "DATABASE_URL": ("postgresql://u:p@db/gateway", SecretStr("postgresql://u:p@db/gateway")),
    "REDIS_URL": ("redis://u:p@redis:6379/0", SecretStr("redis://u:p@redis:6379/0")),
    "REDIS_LOG_SECONDS": ("60", 60.0),
    "REDIS_PREFIX": ("test/gateway-2:", "test/gateway-2:"),
    "CONVERSATION_DAYS": ("0.5", 0.5),
    "STORE_MIB_PER_USER": ("7", 7),
    "EMBEDDINGS_URL": ("https://models.example/v1", "https://models.example/v1"),
    "EMBEDDINGS_MODEL": ("small", "small"),
    "EMBEDDINGS_TOKEN": ("sk-models", SecretStr("sk-models")),
    "AGENT_PROTOCOL_STATUSES": ("documented", "documented"),
    "DEMO_TOKEN": ("sk-demo", SecretStr("sk-demo")),
    "METRICS": ("false", False),
    "CONSOLE": ("false", False),
    "CONSOLE_CLIENT_ID": ("console", "console"),
    "CONSOLE_SCOPE": ("openid api/read", "openid api/read"),
    "SANDBOX": ("true", True),
}
INVALID = {
    "BASE_URL": ["ftp://host", "api.codegen.com", "https://host/a\nb", "https://host/a b", "https://host\x7f"],
    "API_TOKEN": ["sk-1\nsk-2", "sk-1 2", "sk-\u00e9", "sk-\u200b1", "sk-\x7f", "sk-1\ufeffsk-2"],
    "DEMO_TOKEN": ["sk-1\rsk-2", "sk-1\t2", "sk-\u20ac", "\u201csk-1\u201d"],
    "JWT_ISSUER": ["https://issuer.example/\nx", "https://issuer .example"],
    "JWT_AUDIENCE": ["gate\x01way", "gate\tway"],
    "PUBLIC_URL": ["agents.example", "https://agents.example/?a=1", "https://agents.example/#a", "https://a b.example"],
    "ROOT_PATH": ["/a\nb", "/a b", "/a?b", "/a#b", "/\u00e9", "/\u20ac", '/a"b', "/a<b", "/a\\b"],
    "CORS_ORIGINS": [
        "a.example",
        "https://a.example/",
        "https://a.example/x",
        "https://",
        "https://a.example?x",
        "https://u@a.example",
        "https://a.*.example",
        "https://*a.example",
        "https://*",
        "http://localhost:*",
        "https://a.example:65536",
        "https://a.example:x",
        "https://a b",
        "https://a%20b",
        "null",
        "file://",
        "file://a",
        "data://a",
        "ws://a.example",
        "http://127.1",
        "http://127.0.0.256",
        "http://0x7f000001",
        "http://[::1",
        "http://[1::2::3]",
        "https://\u2100.example",
        "https://a.example,https://b.example/",
    ],
    "SECRET_KEY": [KEY[1:], f"{KEY},{KEY[1:]}", f"{KEY[1:]},{KEY}", " , ,", "," * 40],
    "AUTH": [",", "jwt,oauth", "Token"],
    "JWT_JWKS_URL": ["file:///etc/keys", "issuer.example/keys", "https://issuer.example/\nkeys"],
    "JWT_ALGORITHMS": ["none", "HS256,none", "Ed448", "dir", "rs256"],
    "JWT_SCOPE_CLAIM": [","],
    "JWT_LEEWAY_SECONDS": ["-1", "601", "nan", "inf"],
    "PORT": ["-1", "65536", "http"],
    "WORKERS": ["0", "65", "many"],
    "TRUSTED_HOSTS": ["a.example:80", "http://a.example", "a.*", "*a.example", "**", "a..b", "::1", "a b"],
    "TRUSTED_PROXIES": ["*", "proxy.example", "10.0.0.1/8", "10.0.0.256", "10.0.0.1:80"],
    "LOG_LEVEL": ["LOUD"],
    "LOG_FORMAT": ["xml"],
    "UPSTREAM_REQUESTS_PER_MINUTE": ["0", "1e9", "x"],
    "UPSTREAM_READ_INTERVAL_SECONDS": ["0", "-1", "x"],
    "UPSTREAM_BUDGET": ["user", "Token"],
    "UPSTREAM_CONNECT_TIMEOUT_SECONDS": ["0", "-1", "nan", "inf", "86401"],
    "UPSTREAM_READ_TIMEOUT_SECONDS": ["0", "x"],
    "TOKEN_CACHE_SECONDS": ["0", "nan"],
    "STREAM_MAX_AGE_SECONDS": ["0"],
    "STREAM_HEARTBEAT_SECONDS": ["0"],
    "STREAM_STALL_SECONDS": ["0"],
    "REQUESTS_PER_MINUTE": ["0", "-1", "1.5", "x"],
    "STREAMS_PER_CALLER": ["0", "many"],
    "STREAMS_PER_PROCESS": ["0", "1.5"],
    "FOLLOWER_LINGER_SECONDS": ["0"],
    "KEEP_ALIVE_SECONDS": ["0"],
    "DRAIN_SECONDS": ["0"],
    "MAX_BODY_MIB": ["0", "1.5", "9999999999"],
    "MEMORY_MIB": ["0", "1.5", "9999999999"],
    "REDIS_PREFIX": ["a b:", "{a}:", "a*", "x" * 65],
    "EMBEDDINGS_URL": ["models.example/v1", "ftp://models.example"],
    "EMBEDDINGS_TOKEN": ["sk-1\rsk-2", "sk-\u20ac"],
    "AGENT_PROTOCOL_STATUSES": ["old", "Current"],
    "CONVERSATION_DAYS": ["0", "-1", "never", "nan"],
    "STORE_MIB_PER_USER": ["0", "1.5", "many"],
    "METRICS": ["perhaps"],
    "CONSOLE": ["perhaps"],
    "CONSOLE_CLIENT_ID": ["a b", "a\nb"],
    "SANDBOX": ["perhaps"],
}


@pytest.fixture(autouse=True)
def _a_bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_covered_here() -> None:
    assert {name.upper() for name in Settings.model_fields} == set(VALID)


def test_without_an_environment_everything_has_its_default() -> None:
    settings = read_settings()
    assert settings.base_url == "https://api.codegen.com/v1"
    assert (settings.host, settings.port, settings.workers, settings.root_path) == ("127.0.0.1", 8000, 1, "")
    assert settings.cors_origins == ()
    assert settings.stream_heartbeat_seconds == 15
    assert settings.stream_max_age_seconds == 600
    assert settings.drain_seconds == 20
    assert settings.api_token is None


@pytest.mark.parametrize("name", sorted(VALID))
def test_every_setting_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = VALID[name]
    monkeypatch.setenv(PREFIX + name, text)
    assert getattr(read_settings(), name.lower()) == value
    assert suspicious_variables("codegen") == []


@pytest.mark.parametrize("name", sorted(VALID))
def test_every_setting_is_read_from_a_file_named_env(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = VALID[name]
    (tmp_path / ".env").write_text(f"{PREFIX}{name}={text}\nSOMETHING_ELSE=1\n")
    assert getattr(read_settings(), name.lower()) == value
    other = {"ORG_ID": "7", "API_TOKEN": "sk-7", "HOST": "h"}.get(name, text)
    monkeypatch.setenv(PREFIX + name, other)  # the environment goes first
    assert getattr(read_settings(), name.lower()) == (value if other == text else read(name, other))


def read(name: str, text: str) -> Any:
    return SecretStr(text) if name == "API_TOKEN" else text


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in INVALID.items() for text in texts])
def test_a_value_that_makes_no_sense_is_refused_by_the_name_of_its_variable(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + name, text)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{PREFIX}{name}: ")
    assert len(line) > len(f"{PREFIX}{name}: ") + 5


def test_everything_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "WORKERS", "MEMORY_MIB"):
        monkeypatch.setenv(PREFIX + name, "x")
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == [
        "CODEGEN_PORT",
        "CODEGEN_WORKERS",
        "CODEGEN_MEMORY_MIB",
    ]


def test_what_was_set_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_SECRET_KEY", "sk-short")
    monkeypatch.setenv("CODEGEN_API_TOKEN", "sk-secret")
    monkeypatch.setenv("CODEGEN_PORT", "sk-pasted-in-the-wrong-place")
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert "sk-" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


# -- what stands around a value ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [("", "\n"), ("\ufeff", "\r\n"), (" \t", " \ufeff\n")])
@pytest.mark.parametrize("name", sorted(VALID))
def test_white_space_and_byte_order_marks_around_a_value_are_no_part_of_it(
    name: str, around: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = VALID[name]
    monkeypatch.setenv(PREFIX + name, text.join(around))
    assert getattr(read_settings(), name.lower()) == value


@pytest.mark.parametrize("name", sorted(VALID))
def test_a_variable_that_holds_nothing_else_is_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + name, " \ufeff\n")
    assert read_settings() == Settings(_env_file=None)


def test_what_is_given_in_python_is_cleaned_as_well() -> None:
    token = Settings(_env_file=None, api_token="\ufeffsk-1\n").api_token
    assert token == SecretStr("sk-1")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["api_token", "secret_key", "jwt_key", "demo_token", "database_url"])
def test_a_file_may_begin_with_a_byte_order_mark(
    name: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = VALID[name.upper()]
    (tmp_path / "secret").write_text(f"{text}\r\n", encoding)
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", f"{tmp_path}/secret\n")
    assert getattr(read_settings(), name) == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_keys_may_begin_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    line = f"ci digest=sha256:{'0' * 64} scopes=runs:read\r\n"
    (tmp_path / "keys").write_text(line, encoding)
    given: dict[str, Any] = {"auth": "key", "api_token": "sk-1", "secret_key": KEY, "api_keys_file": tmp_path / "keys"}
    create_app(Settings(_env_file=None, **given))


def test_a_file_named_env_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CODEGEN_BASE_URL=https://host.example\nCODEGEN_PROT=9\n", "utf-8-sig")
    assert read_settings().base_url == "https://host.example"
    assert len(suspicious_variables("codegen")) == 1


def test_a_file_named_env_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CODEGEN_API_TOKEN=sk-1\n", "utf-16")
    with pytest.raises(SettingsError, match=r"\.env") as raised:
        read_settings()
    assert "sk-1" not in str(raised.value)


def test_a_line_of_the_file_named_env_that_makes_no_sense_is_named_with_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".env").write_text("CODEGEN_PORT=9\nCODEGEN_HOST='127.0.0.1\n")
    assert read_settings().port == 9
    adapter_options("codegen")
    assert caplog.messages
    assert {*caplog.messages} == {
        f"the file {tmp_path / '.env'}: python-dotenv could not parse statement starting at line 2"
    }


# -- what Kubernetes makes of the names of Services -------------------------------------------------------------------

LINKS = {
    "SERVICE_HOST": "10.96.14.7",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP_ALT": "8000",
    "PORT": "tcp://10.96.14.7:8000",
    "PORT_8000_TCP": "tcp://10.96.14.7:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.96.14.7",
}


@pytest.mark.parametrize("service", ["", "API_", "GATEWAY_", "METRICS_", "HOST_"])
def test_a_service_in_the_same_namespace_changes_nothing(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(f"{PREFIX}{service}{name}", value)
    assert read_settings() == Settings(_env_file=None)
    assert read_settings().port == 8000
    said = suspicious_variables("codegen")
    assert len(said) == (service == "")  # one would otherwise look for the reason why a port that is set is not taken
    assert all(each.startswith("CODEGEN_PORT is ignored") for each in said)


@pytest.mark.parametrize("link", ["tcp://10.96.14.7:8000", "udp://10.96.14.7:53", "tcp://[fd00::7]:8000\n"])
def test_the_address_of_a_service_is_no_port_and_hides_none(
    link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("CODEGEN_PORT=9\n")
    monkeypatch.setenv("CODEGEN_PORT", link)
    assert read_settings().port == 9


@pytest.mark.parametrize("text", ["http://10.96.14.7:8000", "tcp://10.96.14.7", "tcp:8000"])
def test_any_other_port_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_PORT", text)
    with pytest.raises(SettingsError, match="CODEGEN_PORT"):
        read_settings()


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_can_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("  sk-filed\n")
    monkeypatch.setenv("CODEGEN_API_TOKEN_FILE", str(tmp_path / "token"))
    token = read_settings().api_token
    assert token is not None
    assert token.get_secret_value() == "sk-filed"
    assert suspicious_variables("codegen") == []


def test_the_variable_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("sk-filed")
    monkeypatch.setenv("CODEGEN_API_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("CODEGEN_API_TOKEN", "sk-set")
    token = read_settings().api_token
    assert token is not None
    assert token.get_secret_value() == "sk-set"


def test_keys_are_separated_by_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"{KEY} ,{KEY[::-1]},\n")
    monkeypatch.setenv("CODEGEN_SECRET_KEY_FILE", str(tmp_path / "keys"))
    assert read_settings().secret_keys == [KEY, KEY[::-1]]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_a_file_that_cannot_be_read_is_named_by_its_variable(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("CODEGEN_API_TOKEN_FILE", str(path))
    with pytest.raises(SettingsError, match="CODEGEN_API_TOKEN_FILE"):
        read_settings()


def test_only_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "host").write_text("0.0.0.0")
    monkeypatch.setenv("CODEGEN_HOST_FILE", str(tmp_path / "host"))
    assert read_settings().host == "127.0.0.1"
    assert suspicious_variables("codegen") == ["CODEGEN_HOST_FILE is not a setting"]


@pytest.mark.wire("logs-hold-no-secrets")
def test_what_is_logged_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().changed() == {}
    monkeypatch.setenv("CODEGEN_API_TOKEN", "sk-secret")
    settings = read_settings()
    assert settings.changed() == {"api_token": "set"}
    for shown in (str(settings.changed()), repr(settings), str(settings)):
        assert "sk-secret" not in shown


def test_what_is_logged_at_the_start_is_what_differs_from_the_defaults() -> None:
    settings = Settings(
        port=8000, workers=2, org_id="", dialects=("codegen", "agio"), jwt_scope_map="a=runs:read; b=runs:write"
    )
    assert settings.changed() == {
        "org_id": '""',
        "dialects": "codegen,agio",
        "jwt_scope_map": '"a=runs:read; b=runs:write"',
        "workers": "2",
    }


SECRETS = [name for name, field in Settings.model_fields.items() if SecretStr in (get_args(field.annotation) or ())]
NO_SECRETS = {"token_cache_seconds", "upstream_budget", "api_keys_file", "redis_prefix", "redis_log_seconds"}
"""Named like secrets, and none."""


def test_what_is_named_like_a_secret_is_one() -> None:
    named = {name for name in Settings.model_fields if re.search("token|key|secret|password|credential|redis", name)}
    assert named - NO_SECRETS <= set(SECRETS)
    assert {"api_token", "secret_key"} <= set(SECRETS)


@pytest.mark.wire("logs-hold-no-secrets")
@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("source", ["environment", "file", "argument"])
def test_no_secret_is_ever_shown(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    secret = "xyzzy-0123456789-0123456789-0123456789"
    if name == "redis_url":
        secret = f"redis://:{secret}@127.0.0.1"
    if source == "environment":
        monkeypatch.setenv(PREFIX + name.upper(), secret)
    elif source == "file":
        (tmp_path / "secret").write_text(secret)
        monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(tmp_path / "secret"))
    given: dict[str, Any] = {name: secret}
    if name == "redis_url":  # without which it is refused
        monkeypatch.setenv(f"{PREFIX}SECRET_KEY", KEY)
    settings = Settings(**given) if source == "argument" else read_settings()
    kept_apart = source == "file" and name == "api_keys"  # that file is read by who uses it, again and again
    assert kept_apart or getattr(settings, name).get_secret_value() == secret
    create_app(settings)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("settings that differ")]
    said = told[0].partition(": ")[2].split()
    assert (f"api_keys_file={tmp_path / 'secret'}" if kept_apart else f"{name}=set") in said
    shown = [repr(settings), str(settings), str(settings.changed()), settings.model_dump_json(), caplog.text]
    shown += [f"{settings.model_dump()}", f"{vars(settings)}"]
    for text in shown:
        assert "xyzzy" not in text


@pytest.mark.wire("logs-hold-no-secrets")
@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("wrong", ["xyzzy", "xyzzy-0123456789-0123456789-0123456789"])
def test_no_secret_is_shown_by_an_error_either(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it wrong itself, or beside something that is."""
    monkeypatch.setenv(PREFIX + name.upper(), wrong)
    monkeypatch.setenv(PREFIX + "PORT", "x")
    with pytest.raises(SettingsError) as raised:
        read_settings()
    chain = traceback.format_exception(raised.value)
    assert "xyzzy" not in "".join(chain)
    monkeypatch.delenv(PREFIX + name.upper())
    given: dict[str, Any] = {name: wrong}
    with pytest.raises(ValidationError) as invalid:
        Settings(**given)
    assert "xyzzy" not in f"{invalid.value}{invalid.value!r}"


@pytest.mark.parametrize("name", sorted(VALID))
def test_an_empty_variable_is_one_that_is_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + name, "")
    assert read_settings() == Settings(_env_file=None)


# -- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [("", ""), ("/", ""), ("//", ""), ("codegen", "/codegen"), ("/codegen/", "/codegen"), ("/a/b", "/a/b")],
)
def test_a_root_path_begins_with_a_slash_and_ends_without(
    text: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEGEN_ROOT_PATH", text)
    assert read_settings().root_path == path


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        (" , ,", ()),
        ("https://a.example", ("https://a.example",)),
        (" https://a.example , http://b.example:8080,", ("https://a.example", "http://b.example:8080")),
    ],
)
def test_a_list_is_separated_by_commas(text: str, origins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_CORS_ORIGINS", text)
    assert read_settings().cors_origins == origins


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("HTTPS://App.Example.com", "https://app.example.com"),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://a.example:", "https://a.example"),
        ("https://a.example:08443", "https://a.example:8443"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("https://*.Example.com:443", "https://*.example.com"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("moz-extension://0f1e-2d", "moz-extension://0f1e-2d"),
        ("*", "*"),
    ],
)
def test_an_origin_is_brought_into_the_form_in_which_browsers_send_it(
    text: str, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEGEN_CORS_ORIGINS", text)
    assert read_settings().cors_origins == (origin,)


def test_of_several_that_which_is_wrong_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_CORS_ORIGINS", "https://a.example,https://b.example/")
    with pytest.raises(SettingsError, match="CODEGEN_CORS_ORIGINS: item 2: an origin is"):
        read_settings()


def test_in_python_a_list_is_a_list() -> None:
    assert Settings(_env_file=None, cors_origins=["https://a.example"]).cors_origins == ("https://a.example",)


def test_names_are_taken_in_either_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("codegen_port", "9")
    assert read_settings().port == 9
    assert suspicious_variables("codegen") == []


def test_names_that_are_no_settings_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_PROT", "9")
    monkeypatch.setenv("CODEGEN_API_TOKENS", "9")
    monkeypatch.setenv("CODEX_PORT", "9")
    read_settings()
    monkeypatch.setenv("CODEGEN_BASEURL", "https://host.example")
    monkeypatch.setenv("CODEGEN_SECRET_KEYFILE", "/run/key")
    monkeypatch.setenv("CODEGEN_WHATEVER", "9")
    assert suspicious_variables("codegen") == [
        "CODEGEN_API_TOKENS is not a setting; did you mean CODEGEN_API_TOKEN?",
        "CODEGEN_BASEURL is not a setting; did you mean CODEGEN_BASE_URL?",
        "CODEGEN_PROT is not a setting; did you mean CODEGEN_PORT?",
        "CODEGEN_SECRET_KEYFILE is not a setting; did you mean CODEGEN_SECRET_KEY_FILE?",
        "CODEGEN_WHATEVER is not a setting",
    ]


def test_what_the_commands_for_the_terminal_read_is_not_taken_for_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEGEN_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("CODEGEN_TOKEN", "sk-1")
    assert suspicious_variables("codegen") == []


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None).port = 1  # type: ignore[misc]


def test_the_example_file_names_every_setting_and_no_other() -> None:
    lines = (Path(__file__).parent.parent / ".env.example").read_text().splitlines()
    named = {line.lstrip("#").split("=")[0] for line in lines if line.lstrip("#").startswith(PREFIX) and "=" in line}
    assert named == {PREFIX + name for name in VALID} - {"CODEGEN_SANDBOX"}  # that one is set by --sandbox


@pytest.mark.parametrize("file_first", [True, False])
def test_an_option_of_an_adapter_goes_before_the_file_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file_first: bool
) -> None:
    (tmp_path / "directory").write_text("/of-the-file\n")
    given = {"CODEGEN_TOY_DIRECTORY_FILE": str(tmp_path / "directory"), "CODEGEN_TOY_DIRECTORY": "/of-the-variable"}
    for name in sorted(given, reverse=file_first):
        monkeypatch.setenv(name, given[name])
    assert adapter_options("toy") == {"directory": "/of-the-variable"}
    monkeypatch.delenv("CODEGEN_TOY_DIRECTORY")
    assert adapter_options("toy") == {"directory": "/of-the-file"}
