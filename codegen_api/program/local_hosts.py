"""Hosts that the command line starts: the sandbox, and the agent servers of ``--with``.

Each is a child process, shared by all workers, kept across reloads, and ended with this process. Its settings are put
into the environment, where worker processes find them.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codegen_api.auth.keys import new_key
from codegen_api.build_parts import DIALECTS
from codegen_api.program import keep_running
from codegen_api.settings import read_settings
from codegen_api.settings.environment import PREFIX, SettingsError, adapter_options, option_prefix

SANDBOX_ORGANIZATION = "323"
SANDBOX_TOKEN = "sandbox-alice"  # noqa: S105 - no secret: it is in the README

SANDBOX_LINES = """\
  host     the sandbox, at {host}: nothing leaves this machine
  tokens   sandbox-alice, sandbox-bob"""
ANOTHER_KEY = """
A key for another user: codegen-api keys new NAME --scopes runs:read runs:write
Add what it prints behind `store:` to {keys}; take the line out to revoke the key."""
NEW_KEY = "Your key, which is shown only this once: {key}"
OLD_KEY = "In the lines below, KEY stands for one of your keys. A key is shown when it is made, and never again."
TRY_IT = """
Start a run, watch it live, and come back to it in the middle:

  ID=$(curl -s {url}/agent-runs -H "Authorization: Bearer {token}" \
-H 'Content-Type: application/json' -d '{{"prompt":"Write a haiku about logs"}}' | jq -r .id); echo $ID
  curl -sN {url}/agent-runs/$ID/logs/stream -H "Authorization: Bearer {token}" \
-H 'Accept: application/x-ndjson' | jq --unbuffered -c .
  curl -sN {url}/agent-runs/$ID/logs/stream -H "Authorization: Bearer {token}" -H 'Last-Event-ID: 3'
"""

USERNAME = "opencode"
FOLDER = ".codegen-api"
"""Where in the host's working folder keys and logs are kept, unless ``CODEGEN_DATA_DIR`` is set."""


@dataclass(frozen=True, slots=True)
class Program:
    """An agent server that ``--with`` can start. ``ready`` and ``listed`` are paths: see ``keep_running``."""

    install: str
    arguments: Sequence[str]
    ready: str
    needs: str = ""
    """A file that must be in its folder."""
    listed: str = ""
    """``{directory}`` stands for the folder."""
    environment: Mapping[str, str] | None = None


PROGRAMS = {
    "opencode": Program(
        install="npm install -g opencode-ai@1.18.33",
        arguments=("serve", "--hostname", "127.0.0.1"),
        ready="/global/health",
        # it ignores prompts that come before it has loaded the folder's models
        listed="/api/model?location%5Bdirectory%5D={directory}",
        environment={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_SERVER_USERNAME": USERNAME},
    ),
    "langgraph": Program(
        install='pip install "langgraph-cli[inmem]"',
        arguments=("dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--n-jobs-per-worker", "10"),
        ready="/ok",
        needs="langgraph.json",
    ),
}
"""What ``--with`` can start. The name is that of the program and of the adapter."""


@contextlib.contextmanager
def sandbox(url: str) -> Iterator[Sequence[str]]:
    """Run the sandbox, and keep conversations in a temporary directory. Yields lines about it to print. ``url`` is the
    gateway's.

    Raises:
        SettingsError: it did not start.
    """
    command = [sys.executable, "-m", "codegen_api.sandbox", "--port", "0", "--announce", "--die-with-stdin"]
    path = os.pathsep.join(sys.path)  # works from a checkout that is not installed
    with _child("The sandbox", command, {**os.environ, "PYTHONPATH": path}), _temporary_data():
        _set("SANDBOX", "true")
        settings = read_settings()
        if settings.org_id is None:
            _set("ORG_ID", SANDBOX_ORGANIZATION)
        if settings.api_token is None:
            _set("API_TOKEN", SANDBOX_TOKEN)
        if "dialects" not in settings.model_fields_set:
            _set("DIALECTS", ",".join(DIALECTS))
        if settings.demo_token is None and "token" in settings.auth:
            _set("DEMO_TOKEN", SANDBOX_TOKEN)
        yield SANDBOX_LINES.format(host=settings.base_url), TRY_IT.format(url=url, token=SANDBOX_TOKEN)


@contextlib.contextmanager
def program(name: str, folder: str, url: str) -> Iterator[Sequence[str]]:
    """Run an agent server in ``folder``, for users with keys of the gateway. Yields lines about it to print. ``url`` is
    the gateway's.

    Raises:
        SettingsError: it is not installed, did not start, or conflicts with the settings.
    """
    already_set = read_settings().model_fields_set
    for setting in ("base_url", "upstream"):
        if setting in already_set:
            raise SettingsError(f"{PREFIX}{setting.upper()}: it is set, but --with {name} chooses the host itself")
    chosen = PROGRAMS[name]
    executable = shutil.which(name)
    if executable is None:
        raise SettingsError(f"{name} is not on PATH. Install it: {chosen.install}")
    directory = Path(folder).resolve()
    if not directory.is_dir():
        raise SettingsError(f"--dir: {directory} is not a folder")
    if chosen.needs and not (directory / chosen.needs).is_file():
        raise SettingsError(f"--dir: {directory} has no {chosen.needs}, which {name} needs")
    _set("UPSTREAM", name)
    for option, value in _adapter_options(name, directory).items():
        os.environ[f"{option_prefix(name)}{option.upper()}"] = value
    try:
        _keep_secrets(directory)
    except OSError as error:
        raise SettingsError(f"{PREFIX}DATA_DIR: {error.filename}: {error.strerror}") from error
    settings = read_settings()
    password = secrets.token_urlsafe(32) if settings.api_token is None else settings.api_token.get_secret_value()
    _set("API_TOKEN", password)
    # the agent may show its environment to its users
    environment = {each: value for each, value in os.environ.items() if not each.upper().startswith(PREFIX)}
    if chosen.environment is not None:
        environment |= {**chosen.environment, keep_running.PASSWORD: password}
    log = settings.data_dir / f"{name}.log"
    options = ["--name", name, "--log", str(log.absolute()), "--ready", chosen.ready]
    if chosen.listed:
        options += ["--listed", chosen.listed.format(directory=urllib.parse.quote(str(directory), safe=""))]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options += ["--url", f"http://127.0.0.1:{port}"]
    # -I: Python ignores this environment, which is for the program
    keeper = [sys.executable, "-I", keep_running.__file__, *options, "--"]
    command = [*keeper, os.path.abspath(executable), *chosen.arguments, "--port", str(port)]
    print(f"Starting {name} in {directory} ...", file=sys.stderr, flush=True)
    with _child(name, command, environment, directory):
        # the key only after the start: it is shown once, and would be lost if the start failed
        yield _lines(name, directory, url, _first_key())


def _adapter_options(name: str, directory: Path) -> Mapping[str, str]:
    """The options of the adapter for this program and its folder."""
    if name == "opencode":
        return {"directory": str(directory), "username": USERNAME}
    try:
        graphs = [*json.loads((directory / "langgraph.json").read_text())["graphs"]]
    except (OSError, ValueError, KeyError, TypeError):  # langgraph itself reports this better
        return {}
    return {"assistant": graphs[0], **adapter_options(name)} if len(graphs) == 1 else {}


def _lines(name: str, directory: Path, url: str, key: str | None) -> Sequence[str]:
    """The lines to print. They explain keys, unless the deployment has chosen another way to sign in."""
    settings = read_settings()
    host = f"  host     {name}, working in {directory}"
    if settings.api_keys_file is None:
        return (host,)
    another = ANOTHER_KEY.format(keys=settings.api_keys_file.absolute())
    old = (OLD_KEY,) if key is None else ()
    return host, another, *old, TRY_IT.format(url=url, token=key or "$KEY")


def _keep_secrets(directory: Path) -> None:
    """Keep what must outlive this process, and is not set, in the data directory.

    Raises:
        OSError: it cannot be written.
    """
    settings = read_settings()
    data = settings.data_dir
    if "data_dir" not in settings.model_fields_set:
        data = directory / FOLDER
        _set("DATA_DIR", str(data))
    if not data.is_dir():
        data.mkdir(mode=0o700, parents=True)
        (data / ".gitignore").write_text("*\n")  # a working folder is often a repository
    if settings.secret_key is None:
        _write_new(data / "secret_key", secrets.token_urlsafe(32))
        _set("SECRET_KEY_FILE", str(data / "secret_key"))
    if "auth" not in settings.model_fields_set:
        _set("AUTH", "key")
    if "key" in read_settings().auth and settings.api_keys is None and settings.api_keys_file is None:
        _set("API_KEYS_FILE", str(data / "api_keys"))


def _first_key() -> str | None:
    """Make and print the first key, unless there is a list of keys already.

    Raises:
        SettingsError: the list cannot be written.
    """
    settings = read_settings()
    key, line = new_key("me", ("runs:read", "runs:write"))
    try:
        if settings.api_keys_file is None or not _write_new(settings.api_keys_file, f"{line}\n"):
            return None
    except OSError as error:
        raise SettingsError(f"{PREFIX}API_KEYS_FILE: {error.filename}: {error.strerror}") from error
    print(NEW_KEY.format(key=key), flush=True)
    return key


def _write_new(path: Path, text: str) -> bool:
    """Create a file that only its owner can read. Returns False if there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(descriptor, "w") as file:
        file.write(text)
    return True


@contextlib.contextmanager
def _child(
    what: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[None]:
    """Run a program that announces its URL, which becomes the host's. It ends when its standard input closes, so it
    cannot outlive this process. Ctrl-C does not reach it.
    """
    child = subprocess.Popen(  # noqa: S603 - the command is ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=cwd, process_group=0
    )
    with child:  # closes the pipes, and waits
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        try:
            announcement = child.stdout.readline()
        except KeyboardInterrupt:
            child.terminate()
            raise SystemExit(130) from None
        if not announcement:
            raise SettingsError(f"{what} did not start.")
        _set("BASE_URL", json.loads(announcement)["url"])
        for name in ("NO_PROXY", "no_proxy"):  # no proxy can reach it
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
        yield


@contextlib.contextmanager
def _temporary_data() -> Iterator[None]:
    """Keep conversations in a temporary directory, unless one is configured: the sandbox forgets its runs, too."""
    settings = read_settings()
    if settings.database_url is not None or "data_dir" in settings.model_fields_set:
        yield
        return
    try:
        directory = tempfile.TemporaryDirectory(prefix="codegen-api-", ignore_cleanup_errors=True)
    except OSError as error:
        raise SettingsError(
            f"There is no place for temporary files ({error.strerror}): set {PREFIX}DATA_DIR."
        ) from error
    with directory as path:
        _set("DATA_DIR", path)
        yield


def _set(setting: str, value: str) -> None:
    os.environ[PREFIX + setting] = value
