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
"""Of ``.env``; without ``-sig`` a byte order mark would become part of the first name."""

SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
SERVICE_VARIABLE = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes sets in every pod for a Service whose name begins with ``codegen``."""


class SettingsError(Exception):
    """A setting is invalid. The text names the variable and never quotes a secret."""


@contextmanager
def about(setting: str) -> Iterator[None]:
    """Turn a ``ValueError`` inside into one about this setting, without what it came from, which may quote a secret."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{PREFIX}{setting}: {error}") from None


def read_text(path: Path) -> str:
    """The text of a file without its byte order mark. Windows PowerShell writes UTF-16."""
    content = path.read_bytes()
    return content.decode("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ENCODING)


def _bare(value: str) -> str:
    return value.strip().strip("\ufeff").strip()


@contextmanager
def naming_the_file() -> Iterator[None]:
    """Inside, what python-dotenv says of a line of ``.env`` that it cannot read names the file as well."""
    library = logging.getLogger("dotenv.main")

    def name_it(record: logging.LogRecord) -> bool:
        of_the_file = f"the file {Path('.env').absolute()}: "
        record.msg = of_the_file + str(record.msg).removeprefix(of_the_file)
        return True

    library.addFilter(name_it)
    try:
        yield
    finally:
        library.removeFilter(name_it)


def variables() -> dict[str, str | None]:
    """The environment, with ``.env`` as the fallback."""
    with naming_the_file():
        return {**dotenv_values(".env", encoding=ENCODING), **os.environ}


def option_prefix(upstream: str) -> str:
    """What the names of the variables begin with that only this adapter reads."""
    return f"{PREFIX}{upstream.replace('-', '_')}_".upper()


def adapter_options(upstream: str) -> dict[str, str]:
    """The settings of one adapter by their names: ``directory`` for ``CODEGEN_OPENCODE_DIRECTORY``, or the content of
    the file that ``CODEGEN_OPENCODE_DIRECTORY_FILE`` names; the former, where both are set.

    Raises:
        SettingsError: such a file cannot be read.
    """
    options = {}
    for variable, given in sorted(variables().items(), key=lambda each: not each[0].upper().endswith("_FILE")):
        name, value = variable.upper().removeprefix(option_prefix(upstream)), _bare(given or "")
        of_a_service = SERVICE_VARIABLE.fullmatch(variable.upper()) or _is_service_link(name.lower(), value)
        if name == variable.upper() or not value or of_a_service:
            continue
        of_a_file = name.endswith("_FILE")
        options[name.removesuffix("_FILE").lower()] = _file(variable, value) if of_a_file else value
    return options


def _file(variable: str, path: str) -> str:
    try:
        return _bare(read_text(Path(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {path} cannot be read") from error


def stripped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of settings by their names, without the space around them. One of white space only counts as not set, and
    so does a port that Kubernetes has made of the name of a Service.
    """
    bare = {name: _bare(value) if isinstance(value, str) else value for name, value in values.items()}
    return {
        name: value
        for name, value in bare.items()
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
    paths = {name: _bare(given.get(variable) or "") for name, variable in named.items()}
    return {name: _file(named[name], path) for name, path in paths.items() if path}


def is_secret(settings: type[BaseSettings], name: str) -> bool:
    annotation = settings.model_fields[name].annotation
    return SecretStr in (annotation, *get_args(annotation))


def has_file(settings: type[BaseSettings], name: str) -> bool:
    return is_secret(settings, name) and f"{name}_file" not in settings.model_fields
