"""The sources of settings: environment variables, ``.env``, and files named by ``CODEGEN_..._FILE`` variables."""

import codecs
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic_settings import BaseSettings

PREFIX = "CODEGEN_"
ENCODING = "utf-8-sig"
"""The encoding of ``.env``. Without ``-sig`` a byte order mark would become part of the first name."""

SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
SERVICE_VARIABLE = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with ``codegen``."""


class SettingsError(Exception):
    """A setting is invalid. The text names the variable and never quotes a secret."""


@contextmanager
def errors_about(setting: str) -> Iterator[None]:
    """Turn a ``ValueError`` into a ``SettingsError`` for this setting, without its cause, which may quote a secret."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{setting}: {error}") from None


def read_text(path: Path) -> str:
    """The text of a file without its byte order mark. Windows PowerShell writes UTF-16."""
    content = path.read_bytes()
    return content.decode("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ENCODING)


def _trimmed(value: str) -> str:
    return value.strip().strip("\ufeff").strip()


@contextmanager
def dotenv_path_in_warnings() -> Iterator[None]:
    """Add the path of ``.env`` to the warnings of python-dotenv about lines that it cannot parse."""
    dotenv_logger = logging.getLogger("dotenv.main")

    def add_path(record: logging.LogRecord) -> bool:
        prefix = f"the file {Path('.env').absolute()}: "
        record.msg = prefix + str(record.msg).removeprefix(prefix)
        return True

    dotenv_logger.addFilter(add_path)
    try:
        yield
    finally:
        dotenv_logger.removeFilter(add_path)


def variables() -> dict[str, str | None]:
    """The environment, with ``.env`` as the fallback."""
    with dotenv_path_in_warnings():
        return {**dotenv_values(".env", encoding=ENCODING), **os.environ}


def option_prefix(upstream: str) -> str:
    """The prefix of the variables that only this adapter reads."""
    return f"{PREFIX}{upstream.replace('-', '_')}_".upper()


def adapter_options(upstream: str) -> dict[str, str]:
    """The settings of one adapter by name: ``directory`` is the value of ``CODEGEN_OPENCODE_DIRECTORY``, or else the
    content of the file that ``CODEGEN_OPENCODE_DIRECTORY_FILE`` names.

    Raises:
        SettingsError: such a file cannot be read.
    """
    options = {}
    for variable, given in sorted(variables().items(), key=lambda each: not each[0].upper().endswith("_FILE")):
        name, value = variable.upper().removeprefix(option_prefix(upstream)), _trimmed(given or "")
        from_kubernetes = SERVICE_VARIABLE.fullmatch(variable.upper()) or _is_service_link(name.lower(), value)
        if name == variable.upper() or not value or from_kubernetes:
            continue
        is_path = name.endswith("_FILE")
        options[name.removesuffix("_FILE").lower()] = _content(variable, value) if is_path else value
    return options


def _content(variable: str, path: str) -> str:
    try:
        return _trimmed(read_text(Path(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {path} cannot be read") from error


def stripped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, without white space around their values. A value of white space only counts as not set, and so
    does a port that Kubernetes has made from the name of a Service.
    """
    trimmed = {name: _trimmed(value) if isinstance(value, str) else value for name, value in values.items()}
    return {
        name: value
        for name, value in trimmed.items()
        if not ((value == "" and values[name]) or _is_service_link(name, value))
    }


def _is_service_link(name: str, value: object) -> bool:
    return name.endswith("port") and isinstance(value, str) and SERVICE_LINK.fullmatch(value) is not None


def secrets_in_files(settings: type[BaseSettings]) -> dict[str, str]:
    """Secrets from files named by ``CODEGEN_..._FILE`` variables.

    Raises:
        SettingsError: such a file cannot be read.
    """
    given = variables()
    named = {name: f"{PREFIX}{name}_FILE".upper() for name in settings.model_fields if has_file(settings, name)}
    paths = {name: _trimmed(given.get(variable) or "") for name, variable in named.items()}
    return {name: _content(named[name], path) for name, path in paths.items() if path}


def is_secret(settings: type[BaseSettings], name: str) -> bool:
    annotation = settings.model_fields[name].annotation
    return SecretStr in (annotation, *get_args(annotation))


def has_file(settings: type[BaseSettings], name: str) -> bool:
    return is_secret(settings, name) and f"{name}_file" not in settings.model_fields
