"""OpenAI's HTTP API over a backend."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedrouter.errors import FedRouterError, RequestError
from fedrouter.serving.backend import Backend
from fedrouter.serving.middleware import ApiKeys, BodyLimit
from fedrouter.serving.requests import ServingError, unknown_model
from fedrouter.serving.responses import error_body
from fedrouter.serving.schema import ChatRequest, CompletionRequest, RouteRequest, parse

MAX_BODY = 2**20  # bytes of a request
PAGE = resources.files("fedrouter") / "assets" / "page"
# The page asks no other host, and no other page may frame it.
SAFE = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def make_app(backend: Backend, keys: Collection[str] = (), max_body: int = MAX_BODY) -> Starlette:
    """The application.

    Args:
        backend: answers the requests; it is closed with the application.
        keys: the keys of clients; none: everybody is answered.
        max_body: the largest body of a request, in bytes.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await backend.close()

    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(ApiKeys, keys=keys), Middleware(BodyLimit, limit=max_body)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.state.backend = backend
    return app


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def _chat(request: Request) -> Response:
    return await _backend(request).chat(request, parse(ChatRequest, await request.body()))


async def _complete(request: Request) -> Response:
    return await _backend(request).complete(request, parse(CompletionRequest, await request.body()))


async def _route(request: Request) -> Response:
    body = parse(RouteRequest, await request.body())
    data = [
        {
            "task": one.task,
            "confidence": one.confidence,
            "known": one.known,
            "distances": dict(one.distances),
        }
        for one in await _backend(request).route(body.prompts)
    ]
    return JSONResponse({"object": "list", "data": data})


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": _backend(request).cards()})


async def _model(request: Request) -> Response:
    name = request.path_params["name"]
    for card in _backend(request).cards():
        if card["id"] == name:
            return JSONResponse(card)
    raise unknown_model(name)


async def _health(request: Request) -> Response:
    return JSONResponse(await _backend(request).health())


async def _metrics(request: Request) -> Response:
    text = _backend(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4")


async def _page(_: Request) -> Response:
    return Response((PAGE / "index.html").read_text(), media_type="text/html", headers=SAFE)


ROUTES = [
    Route("/", _page),
    Mount("/page", StaticFiles(directory=str(PAGE))),
    Route("/health", _health),
    Route("/metrics", _metrics),
    Route("/v1/models", _models),
    Route("/v1/models/{name:path}", _model),
    Route("/v1/route", _route, methods=["POST"]),
    Route("/v1/chat/completions", _chat, methods=["POST"]),
    Route("/v1/completions", _complete, methods=["POST"]),
]


async def _request_error(_: Request, error: Exception) -> Response:
    parameter = error.parameter if isinstance(error, RequestError) else ""
    return JSONResponse(error_body(str(error), 400, parameter or None), 400)


async def _serving_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(error_body(str(error), error.status), error.status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.detail, error.status_code), error.status_code)


async def _unexpected(_: Request, error: Exception) -> Response:
    message = f"the request failed with {type(error).__name__}; the server's log says more"
    return JSONResponse(error_body(message, 500), 500)


Handler = Callable[[Request, Exception], Awaitable[Response]]
HANDLERS: dict[type[Exception] | int, Handler] = {
    ServingError: _serving_error,
    FedRouterError: _request_error,
    HTTPException: _http_error,
    Exception: _unexpected,
}
