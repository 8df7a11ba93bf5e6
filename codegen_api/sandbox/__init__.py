"""The sandbox: the hosted Codegen agent API, emulated faithfully enough to develop and test against.

`create_sandbox()` makes an ASGI app with a state of its own; `python -m codegen_api.sandbox` serves one. It knows
nothing of the gateway: to it the sandbox is a host like any other. It promises the host's paths, shapes, texts,
rates and oddities. It does not promise persistence, and no agent works here: runs play scripts.
"""

import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.types import ASGIApp

from . import admin, host
from .answers import Refusal, json_response
from .middleware import HostMiddleware
from .state import LimitPolicy, SandboxState

__all__ = ["create_sandbox"]


def create_sandbox(
    *,
    limits: LimitPolicy = "table",
    speed: float = 1.0,
    retry_after: bool = True,
    resume_lag: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> ASGIApp:
    """An emulated host with a state of its own.

    `limits` picks the rate limits, `speed` is how many times faster than written every script is played,
    `retry_after` whether a 429 has that header, and `resume_lag` for how many seconds, at speed 1, a
    resumed run still reads with its old status. `clock` gives monotonic seconds and drives scripts, limits and faults;
    `wall` gives seconds since the epoch and only dates things. Raises ValueError for a value out of range.
    """
    # Without documentation pages: they would show this emulation's routes, not the host's.
    app = FastAPI(
        openapi_url=None, exception_handlers={Refusal: _show_refusal, RequestValidationError: _show_validation}
    )
    app.state.sandbox = SandboxState(limits=limits, clock=clock, wall=wall, speed=speed, resume_lag=resume_lag)
    app.include_router(host.router)
    app.include_router(admin.router)
    return HostMiddleware(app, app.state.sandbox, retry_after)


async def _show_refusal(_request: Request, refusal: Refusal) -> Response:
    return refusal.answer()


async def _show_validation(_request: Request, error: RequestValidationError) -> Response:
    """FastAPI's own 422 with its `input`, unless that is nested too deeply to be written down again."""
    try:
        return json_response({"detail": error.errors()}, 422)
    except RecursionError:
        return json_response(
            {"detail": [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]}, 422
        )
