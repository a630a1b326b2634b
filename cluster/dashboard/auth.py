"""Token authentication for a scheduler's dashboard: its pages, metrics and websockets.

Dask has no such feature. It is loaded by `--preload cluster.dashboard.auth`. A client sends the
token once as `?token=...`, which sets a cookie, or with each request as `Authorization: Bearer
...`. /health needs no token.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from distributed import Scheduler
from tornado import web
from tornado.httputil import HTTPServerRequest

TOKEN_FILE = "TESSERAE_DASHBOARD_TOKEN"
COOKIE = "tesserae-token"
PUBLIC_PATHS = ("/health",)


def dask_setup(scheduler: Scheduler) -> None:
    """Require the token for requests to a scheduler; Dask calls this when it preloads the module.

    The token is read from the file that the environment variable `TESSERAE_DASHBOARD_TOKEN` names.
    Requests to `/health` need none.

    If the token cannot be read or is empty, all other requests are refused: Dask would continue
    without a preload module that fails, and serve the dashboard to everybody.

    Args:
        scheduler: The scheduler that has started in this process.
    """
    try:
        token = Path(os.environ[TOKEN_FILE]).read_text().strip()
    except (KeyError, OSError, UnicodeDecodeError):
        token = ""
    require_token(scheduler.http_application, token or secrets.token_urlsafe(32))


def require_token(application: web.Application, token: str) -> None:
    """Refuse all requests to a server without a token, except those to `/health`.

    Args:
        application: The application of the scheduler's HTTP server; it is changed in place.
        token: The token, which a request has in the cookie `tesserae-token`, in the header
            `Authorization: Bearer ...` or, for GET, in its query, as `?token=...`. A request with
            the query gets the cookie, which browsers return over HTTPS only, and is redirected to
            the path without any query. Others get the status 401.

    Raises:
        ValueError: The token is empty.
    """
    if not token:
        raise ValueError("the token of the dashboard is empty.")
    find_original: Any = application.find_handler

    def find_handler(request: HTTPServerRequest, **kwargs: Any) -> Any:
        if request.path in PUBLIC_PATHS or _is_authorized(request, token):
            return find_original(request, **kwargs)
        token_argument = request.query_arguments.get("token", [b""])[-1]
        if hmac.compare_digest(token_argument, token.encode()):
            return application.get_handler_delegate(request, _SetCookieHandler, {"token": token})
        return application.get_handler_delegate(request, _UnauthorizedHandler)

    # Replaced on the instance: it also covers handlers and applications that are added later.
    application.find_handler = find_handler  # type: ignore[method-assign]


def _is_authorized(request: HTTPServerRequest, token: str) -> bool:
    cookie = request.cookies.get(COOKIE)
    header = request.headers.get("Authorization", "")
    tokens = [cookie.value if cookie else "", header.removeprefix("Bearer ")]
    return any(hmac.compare_digest(candidate.encode(), token.encode()) for candidate in tokens)


class _UnauthorizedHandler(web.RequestHandler):
    def prepare(self) -> None:
        self.set_status(401)
        self.set_header("WWW-Authenticate", "Bearer")
        self.finish(
            "Open this page once with ?token=...; the token is in the file `token` in the folder of"
            " certificates.\n"
        )


class _SetCookieHandler(web.RequestHandler):
    def initialize(self, token: str) -> None:
        self._token = token

    def get(self, *_: str) -> None:
        """Store the token in a cookie, and redirect to the address without it."""
        self.set_cookie(COOKIE, self._token, httponly=True, secure=True, samesite="Strict")
        # One slash: an address that begins with two would lead to another host.
        self.redirect("/" + self.request.path.lstrip("/"))
