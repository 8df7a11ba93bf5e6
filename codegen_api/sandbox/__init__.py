"""The sandbox: the hosted Codegen agent API, emulated faithfully enough to develop and test against.

`create_sandbox()` makes an ASGI app with a state of its own; `python -m codegen_api.sandbox` serves one. It knows
nothing of the gateway: to it the sandbox is a host like any other. It promises the host's paths, shapes, texts,
rates and oddities. It does not promise persistence, and no agent works here: runs play scripts.
"""

from .app import create_sandbox

__all__ = ["create_sandbox"]
