"""What all dialects share of HTTP: authentication, scopes of routes, and the statuses and headers of errors."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import Response

from codegen_api import errors
from codegen_api.errors import Detail, GatewayError, InvalidRequest
from codegen_api.exhaustion import exhausted_resource
from codegen_api.http.parts import parts_of
from codegen_api.http.request_bodies import Authenticator, CallerFirst
from codegen_api.idempotency import Outcome
from codegen_api.identity import Caller
from codegen_api.origins import HOST, LOOPBACK
from codegen_api.telemetry import record_principal

bearer = HTTPBearer(
    auto_error=False,
    description="A token of the hosted API; in the sandbox `sandbox-alice`. Where the deployment has its own users, a"
    " JWT or a key.",
)
SCOPE = "x-required-scope"
MAX_FAULTS = 100
"""Maximum number of faults reported for one request."""

CROSS_SITE = "cross_site"
"""Key in an ASGI scope: whether a page of another site, whose origin is not allowed, makes the browser send this."""

SIMPLE_CONTENT_TYPES = ("", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""Content types that a page may POST to any site. For any other type or method, browsers send a preflight first."""


def named(prefix: str = "") -> Callable[[APIRoute], str]:
    """Operation ids for the OpenAPI document: the functions' names, with a ``prefix`` where dialects could collide."""
    return lambda route: f"{prefix}{route.name}"


def router_of(*tags: str) -> APIRouter:
    """A router whose routes authenticate before they receive a body, with function names as operation ids."""
    return APIRouter(
        route_class=CallerFirst, tags=[*tags], dependencies=[Depends(bearer)], generate_unique_id_function=named()
    )


class MethodNotAllowed(InvalidRequest):
    code = "method_not_allowed"
    default_message = "This route does not know that method."


class PayloadTooLarge(InvalidRequest):
    code = "payload_too_large"
    default_message = "The request is too large."


class RequestTimeout(InvalidRequest):
    code = "request_timeout"
    default_message = "The body of the request did not come in time."


class UriTooLong(InvalidRequest):
    code = "uri_too_long"
    default_message = "The URL of the request is too long."


class HeadersTooLarge(InvalidRequest):
    code = "headers_too_large"
    default_message = "The headers of the request are too many or too large."


class UntrustedHost(InvalidRequest):
    code = "untrusted_host"
    default_message = "The gateway is not called by this name, unless CODEGEN_TRUSTED_HOSTS says so."


class CorsRefused(InvalidRequest):
    code = "cors_refused"
    default_message = (
        "Pages of other sites may not send this request here, unless CODEGEN_CORS_ORIGINS names their origin."
    )


STATUSES: Mapping[type[GatewayError], int] = {
    GatewayError: 500,
    InvalidRequest: 400,
    errors.Rejected: 422,
    errors.NotAuthenticated: 401,
    errors.Forbidden: 403,
    errors.QuotaExhausted: 402,
    errors.NotFound: 404,
    errors.Unsupported: 501,
    errors.Conflict: 409,
    errors.InProgress: 409,
    errors.LoopDetected: 508,
    errors.Unavailable: 503,
    errors.RateLimited: 429,
    errors.UpstreamRateLimited: 429,
    errors.UpstreamFailure: 502,
    errors.UpstreamTimeout: 504,
    errors.Interrupted: 504,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    PayloadTooLarge: 413,
    errors.StoreFull: 413,
    UriTooLong: 414,
    HeadersTooLarge: 431,
    errors.TokenTooLong: 431,
}

WAITS = (409, 429, 503)
"""Statuses that come with a Retry-After."""


# -- dependencies -----------------------------------------------------------------------------------------------------


@Authenticator
async def authenticate(request: Request) -> Caller:
    """Authenticate the caller by the Authorization header.

    Raises:
        NotAuthenticated: there is no token.
        GatewayError: as ``identify``.
    """
    token = bearer_token(request)
    if token is None:
        raise errors.NotAuthenticated
    return await identify(request, token)


async def identify(request: Request, token: str) -> Caller:
    """Authenticate the caller by their token, and check that they may use the route.

    Raises:
        AtCapacity: this instance has reached its maximum of connections.
        InvalidToken, Forbidden, TokenTooLong, AuthUnavailable: the token is invalid, or cannot be checked now.
        RateLimited: the caller has used up their quota of requests.
        InsufficientScope: the caller lacks the route's scope.
    """
    _refuse_if_crowded(request)
    return await admit(request, await parts_of(request).callers.authenticate(token, address_of(request)))


def address_of(request: Request) -> str:
    """The client's address, or that of the nearest proxy that is not trusted; empty if unknown."""
    return "" if request.client is None else request.client.host


def base_url(request: Request) -> str:
    """The gateway's URL as its clients know it: from the settings, else the one this request was sent to."""
    host = request.headers.get("host", "")
    shown = host if HOST.fullmatch(host.lower()) else LOOPBACK[0]
    return parts_of(request).public_url or f"{request.scope['scheme']}://{shown}{request.scope.get('root_path', '')}"


def _refuse_if_crowded(request: Request) -> None:
    """Raises ``AtCapacity`` if ``http1`` marked this connection as one too many."""
    if "crowded" in request.scope:
        raise errors.AtCapacity("This instance has as many connections as it may.", retry_after=5)


async def admit(request: Request, caller: Caller) -> Caller:
    """Check a caller against the route's scope and their quota. The edge reports what remains of the quota."""
    record_principal(caller.principal.user)
    _refuse_if_crowded(request)
    quota = parts_of(request).quota
    if quota is not None:
        left = request.scope["quota_left"] = await quota.take(caller.principal)
        if not left.granted:
            raise errors.RateLimited("You have made as many requests as you may in a minute.", retry_after=left.seconds)
    scope: str | None = request.scope["route"].openapi_extra[SCOPE]  # KeyError, for everybody, if it declares none
    if scope is not None and not caller.may(scope):
        raise errors.InsufficientScope.lacking(scope)
    return caller


async def identify_lenient(request: Request, token: str | None) -> Caller:
    """As ``identify``, but a request without any credentials gets the deployment's demo user, if there is one.

    For dialects whose clients send no credentials when people try them out. So could a browser on behalf of another
    site's page, with a POST of a type that needs no preflight; such a request is refused.

    Raises:
        CorsRefused: a page of another site has caused this request.
        NotAuthenticated: there are no credentials, and no demo user.
    """
    if token is None and not request.headers.get("authorization"):
        token = parts_of(request).demo_token
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        forgeable = request.method == "POST" and request.scope[CROSS_SITE] and kind in SIMPLE_CONTENT_TYPES
        if token is not None and forgeable:
            raise CorsRefused
    if token is None:
        raise errors.NotAuthenticated
    return await identify(request, token)


@Authenticator
async def authenticate_lenient(request: Request) -> Caller:
    """As ``identify_lenient``, with the token of the Authorization header."""
    return await identify_lenient(request, bearer_token(request))


def needs(scope: str | None) -> dict[str, str | None]:
    """The OpenAPI extension in which a route declares its scope; None for any authenticated caller."""
    return {SCOPE: scope}


Responses = dict[int | str, dict[str, Any]]
"""Responses of a route, in FastAPI's form."""


def operation(summary: str, scope: str | None, responses: Responses, **more: Any) -> dict[str, Any]:
    """The keyword arguments of a route: a short summary, the scope it needs, its responses, and ``more`` fields of its
    operation in the OpenAPI document.
    """
    return {"summary": summary, "responses": responses, "openapi_extra": {**needs(scope), **more}}


def bears_token(request: Request) -> bool:
    return request.headers.get("authorization", "").partition(" ")[0].lower() == "bearer"


def bearer_token(request: Request) -> str | None:
    """The bearer token of the request, if any."""
    return request.headers["authorization"].partition(" ")[2].strip() if bears_token(request) else None


async def wanted_organization(
    name: Annotated[
        str | None,
        Header(alias="X-Organization-ID", description="The organization that is meant; else the deployment's."),
    ] = None,
) -> str | None:
    """The organization that the request names, if any."""
    return name or None


Asker = Annotated[Caller, Depends(authenticate)]
WantedOrganization = Annotated[str | None, Depends(wanted_organization)]
Skip = Annotated[int, Query(ge=0, le=10**18, description="How many to pass over.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many to give at most.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 printable characters of the client's choice: what is repeated with it within a day is"
        " done once, and answered as the first time.",
    ),
]


# -- answers ----------------------------------------------------------------------------------------------------------


def json_response(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(content, status, headers, "application/json")


REPLAYED = {"Idempotent-Replayed": "true"}
"""Header of a response to a repeated request."""


def replayed(outcome: Outcome) -> Mapping[str, str]:
    return REPLAYED if outcome.replayed else {}


def timestamp(seconds: float, precision: str = "milliseconds") -> str:
    """A time on the wire: RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


# -- errors -----------------------------------------------------------------------------------------------------------


def as_gateway_error(error: Exception) -> GatewayError:
    """Map any exception to a gateway error."""
    match error:
        case GatewayError():
            return error
        case RequestValidationError():
            # without the input and context of the faults, which quote prompts
            faults = list(error.errors())[:MAX_FAULTS]
            return errors.Rejected(
                details=[Detail(tuple(fault["loc"]), _message_for(fault), str(fault["type"])) for fault in faults]
            )
        case HTTPException(status_code=413):
            return PayloadTooLarge(error.detail)  # raised by `request_bodies`, with a message for the caller
        case HTTPException(status_code=status) if 400 <= status < 500:
            known = {404: errors.NotFound("There is no such route."), 405: MethodNotAllowed(), 408: RequestTimeout()}
            return known.get(status, InvalidRequest())
        case _ if exhausted_resource(error) is not None:
            return errors.AtCapacity("This instance cannot do more just now.", retry_after=5)
    return GatewayError()


def _message_for(fault: Mapping[str, Any]) -> str:
    """The message for one fault. For invalid JSON it is the parser's, which quotes nothing."""
    match fault["type"]:
        case "json_invalid":
            return f"Not valid JSON: {fault['ctx']['error']}"
        case "model_attributes_type":
            return "Must be an object"
    return str(fault["msg"])


def status_of(error: GatewayError) -> int:
    """The HTTP status of an error: that of its nearest ancestor in the table."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def retry_after(error: GatewayError) -> int:
    """Whole seconds until a retry makes sense."""
    return 10 if error.retry_after is None else max(1, math.ceil(error.retry_after))


def error_headers(error: GatewayError) -> dict[str, str]:
    """Headers of an error response, the same in all dialects."""
    status, headers = status_of(error), {}
    scope = error.scope if isinstance(error, errors.InsufficientScope) else None
    if status == 401 or scope is not None:
        kind = "invalid_token" if isinstance(error, errors.InvalidToken) else scope and "insufficient_scope"
        fields = {"error": kind, "scope": scope, "resource_metadata": error.resource_metadata}
        parameters = ", ".join(f'{name}="{value}"' for name, value in fields.items() if value is not None)
        headers["WWW-Authenticate"] = f"Bearer {parameters}".strip()
    if status in WAITS:
        headers["Retry-After"] = str(retry_after(error))
    if status == 408:  # the rest of the abandoned request would follow on this connection
        headers["Connection"] = "close"
    return headers
