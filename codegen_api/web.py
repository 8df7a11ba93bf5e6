"""What every dialect shares on the wire: who is calling and what a route needs of them, and errors of every origin."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from codegen_api.auth.callers import Callers
from codegen_api.auth.quota import Quota
from codegen_api.errors import (
    Detail,
    GatewayError,
    InsufficientScope,
    InvalidRequest,
    InvalidToken,
    NotAuthenticated,
    NotFound,
    RateLimited,
    Rejected,
)
from codegen_api.gateway import Gateway
from codegen_api.identity import Caller

_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")

bearer = HTTPBearer(
    auto_error=False,
    description="A token of the hosted API; in the sandbox `sandbox-alice`. Where the deployment has its own users, a"
    " JWT or a key.",
)
SCOPE = "x-required-scope"


class MethodNotAllowed(InvalidRequest):
    code = "method_not_allowed"
    default_message = "This route does not know that method."


class PayloadTooLarge(InvalidRequest):
    code = "payload_too_large"
    default_message = "The request is too large."


class UriTooLong(InvalidRequest):
    code = "uri_too_long"
    default_message = "The URL of the request is too long."


class HeadersTooLarge(InvalidRequest):
    code = "headers_too_large"
    default_message = "The headers of the request are too many or too large."


class UntrustedHost(InvalidRequest):
    code = "untrusted_host"
    default_message = "The gateway is not called by this name."


class CorsRefused(InvalidRequest):
    code = "cors_refused"
    default_message = "Pages of this origin may not send this request here."


# -- dependencies -----------------------------------------------------------------------------------------------------


async def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def authenticate(request: Request) -> Caller:
    """Who is calling, by the Authorization header.

    Raises:
        NotAuthenticated: nobody says who.
        InvalidToken: somebody does, and it is not true.
        InsufficientScope: this route is not for them.
        AuthUnavailable: it cannot be found out just now.
        RateLimited: they have asked often enough.
    """
    if not bears_token(request):
        raise NotAuthenticated
    token = request.headers["authorization"].partition(" ")[2].strip()
    if not _TOKEN.fullmatch(token):
        raise InvalidToken
    return await identify(request, token)


async def identify(request: Request, token: str) -> Caller:
    """Whose token this is, who may do what the route does."""
    callers: Callers = request.app.state.callers
    caller = await callers.authenticate(token)
    await _count(request, caller)
    scope: str | None = request.scope["route"].openapi_extra[SCOPE]  # a route that says nothing is open to nobody
    if scope is not None and not caller.may(scope):
        raise InsufficientScope.lacking(scope)
    return caller


def needs(scope: str | None) -> dict[str, str | None]:
    """What each route that wants to know its caller says of itself: which scope they need, if any."""
    return {SCOPE: scope}


async def _count(request: Request, caller: Caller) -> None:
    """Count this request of ``caller``, where the deployment counts; the edge will say in the answer what is left.

    Raises:
        RateLimited: they have asked often enough.
    """
    quota: Quota | None = request.app.state.quota
    if quota is not None:
        left = request.scope["quota_left"] = await quota.take(caller.principal)
        if not left.granted:
            raise RateLimited("You have made as many requests as you may in a minute.", retry_after=left.seconds)


def bears_token(request: Request) -> bool:
    return request.headers.get("authorization", "").partition(" ")[0].lower() == "bearer"


async def wanted_organization(
    name: Annotated[
        str | None,
        Header(alias="X-Organization-ID", description="The organization that is meant; else the deployment's."),
    ] = None,
) -> str | None:
    """The organization that the request names, if it names one."""
    return name or None


Door = Annotated[Gateway, Depends(gateway_of)]
Asker = Annotated[Caller, Depends(authenticate)]
WantedOrganization = Annotated[str | None, Depends(wanted_organization)]


# -- errors -----------------------------------------------------------------------------------------------------------


def understood(error: Exception) -> GatewayError:
    """Any exception that the framework raises, in our words."""
    match error:
        case GatewayError():
            return error
        case RequestValidationError():
            # neither the input nor the context of a fault: they quote prompts
            return Rejected(
                details=[Detail(tuple(item["loc"]), str(item["msg"]), str(item["type"])) for item in error.errors()]
            )
        case HTTPException(status_code=404):
            return NotFound("There is no such route.")
        case HTTPException(status_code=405):
            return MethodNotAllowed()
        case HTTPException(status_code=413):
            return PayloadTooLarge()
        case HTTPException(status_code=status) if 400 <= status < 500:
            return InvalidRequest()
        case _:
            return GatewayError()
