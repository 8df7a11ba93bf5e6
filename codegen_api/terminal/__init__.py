"""Runs on the terminal: ``codegen-api tail`` and the like. A client of the native API, like any other.

It imports nothing of the gateway. The output of runs is never trusted: see ``harmless``.
"""

COMMANDS = ("tail", "create", "runs", "resume", "cancel")
"""The first words of command lines for ``commands``, rather than the server."""
