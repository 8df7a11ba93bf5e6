"""The sources of settings: environment variables, ``.env``, and files named by ``CODEGEN_..._FILE`` variables."""

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

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


def read_text(path: Path) -> str:
    """The text of a file without its byte order mark. Windows PowerShell writes UTF-16."""
    content = path.read_bytes()
    return content.decode("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ENCODING)


def _bare(value: str) -> str:
    return value.strip().strip("\ufeff").strip()


def variables() -> dict[str, str | None]:
    """The environment, with ``.env`` as the fallback."""
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


class StrippedSource(PydanticBaseSettingsSource):
    """Another source with its values stripped. A value of white space only counts as not set."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        bare = {
            name: (value, _bare(value) if isinstance(value, str) else value) for name, value in self._source().items()
        }
        return {
            name: value
            for name, (given, value) in bare.items()
            if not ((value == "" and given) or _is_service_link(name, value))
        }


def _is_service_link(name: str, value: object) -> bool:
    return name.endswith("port") and isinstance(value, str) and SERVICE_LINK.fullmatch(value) is not None


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets from files named by ``CODEGEN_..._FILE`` variables."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._variables = variables()

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        path = _bare(self._variables.get(f"{PREFIX}{field_name}_FILE".upper()) or "")
        if not path or not has_file(self.settings_cls, field_name):
            return None, field_name, False
        return _file(f"{PREFIX}{field_name.upper()}_FILE", path), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def is_secret(settings: type[BaseSettings], name: str) -> bool:
    return SecretStr in _parts(settings.model_fields[name].annotation)


def has_file(settings: type[BaseSettings], name: str) -> bool:
    return is_secret(settings, name) and f"{name}_file" not in settings.model_fields


def _parts(annotation: Any) -> Iterable[Any]:
    return (annotation, *get_args(annotation))
