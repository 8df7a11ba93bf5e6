"""The parts of a sandbox put together."""

import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.types import ASGIApp

from .admin import Admin
from .encoding import encode, json_response
from .errors import Refusal
from .faults import Faults
from .front import Front
from .host import Host
from .ledger import Ledger
from .limits import LimitPolicy, Limits
from .world import World


def create_sandbox(
    *,
    limits: LimitPolicy = "table",
    speed: float = 1.0,
    retry_after: bool = True,
    resume_lag: float = 1.0,
    clock: Callable[[], float] | None = None,
    wall: Callable[[], float] | None = None,
) -> ASGIApp:
    """An emulated host with a state of its own.

    `limits` picks the rate limits, `speed` is how many times faster than written every script is played,
    `retry_after` whether a 429 says when to come back, and `resume_lag` for how many seconds, at speed 1, a
    resumed run still reads with its old status. `clock` gives monotonic seconds and drives scripts, limits and faults;
    `wall` gives seconds since the epoch and only dates things. Raises ValueError for a value out of range.
    """
    clock = clock or time.monotonic
    world = World(clock=clock, wall=wall or time.time, speed=speed, resume_lag=resume_lag)
    windows = Limits(limits, clock)
    ledger = Ledger()
    faults = Faults(clock)
    # Without documentation pages: they would show this emulation's routes, not the host's.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(Host(world).router())
    app.include_router(Admin(world, ledger, faults, windows).router())
    app.add_exception_handler(Refusal, _show_refusal)
    app.add_exception_handler(RequestValidationError, _show_validation)
    return Front(app, world.directory, ledger, windows, faults, clock, retry_after)


async def _show_refusal(_request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise TypeError from error
    return json_response(error.to_wire(), error.status_code)


async def _show_validation(_request: Request, error: Exception) -> Response:
    """FastAPI's own 422 with its `input`, for those inputs too that FastAPI could not print."""
    if not isinstance(error, RequestValidationError):
        raise TypeError from error
    details = error.errors()
    try:
        encode(details)
    except RecursionError:
        details = [{key: each[key] for key in ("type", "loc", "msg")} for each in details]
    return json_response({"detail": details}, 422)
