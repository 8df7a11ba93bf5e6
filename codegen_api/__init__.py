"""A thin authenticated gateway in front of a hosted agent API: its runs over REST, their logs as live streams."""

from codegen_api.app import create_app
from codegen_api.settings import Settings

__all__ = ["Settings", "create_app"]
