"""A thin authenticating gateway in front of a hosted agent API: runs over REST, their logs as live streams."""

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codegen_api.app import create_app
    from codegen_api.settings import Settings

__all__ = ["Settings", "create_app"]

__version__: str


def __getattr__(name: str) -> Any:
    # imported on first use: the sandbox is part of this package and must start without the gateway
    if name == "create_app":
        from codegen_api.app import create_app  # noqa: PLC0415

        return create_app
    if name == "Settings":
        from codegen_api.settings import Settings  # noqa: PLC0415

        return Settings
    if name == "__version__":
        try:
            return importlib.metadata.version("codegen-gateway")
        except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
            return "0.0.0"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
