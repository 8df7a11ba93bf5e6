"""Runs on the terminal: ``codegen-api tail`` and the like. A client of the native API, like any other.

It imports nothing of the gateway. What runs write is never trusted: see ``harmless``.
"""

COMMANDS = ("tail", "create", "runs", "resume", "cancel")
"""First words of a command line that is for ``commands``, and not for the server."""
