"""Nobody sees a scheduler's pages without its token: no page, no figure, no websocket.

Loaded by `--preload cluster.dashboard.auth`. Dask has no such thing. The token is shown once, as
`?token=...`, which sets a cookie, or with each request as `Authorization: Bearer ...`; /health is
for everybody, who may know that it is there and no more.
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
OPEN = ("/health",)


def dask_setup(scheduler: Scheduler) -> None:
    """Close the gate of *scheduler*, as Dask loads this module.

    Dask goes on without a module that fails: then nobody is let in at all.
    """
    try:
        token = Path(os.environ[TOKEN_FILE]).read_text().strip()
    except (KeyError, OSError):
        token = ""
    close(scheduler.http_application, token or secrets.token_urlsafe(32))


def close(application: web.Application, token: str) -> None:
    """Let in only who shows *token*.

    Raises:
        ValueError: It is empty: everybody would have it.
    """
    if not token:
        raise ValueError("the token of the dashboard is empty.")
    found: Any = application.find_handler

    def find_handler(request: HTTPServerRequest, **kwargs: Any) -> Any:
        if request.path in OPEN or _shown(request, token):
            return found(request, **kwargs)
        asked = request.query_arguments.get("token", [b""])[-1]
        if hmac.compare_digest(asked, token.encode()):
            return application.get_handler_delegate(request, _Welcome, {"token": token})
        return application.get_handler_delegate(request, _Refuse)

    application.find_handler = find_handler  # type: ignore[method-assign]


def _shown(request: HTTPServerRequest, token: str) -> bool:
    cookie = request.cookies.get(COOKIE)
    header = request.headers.get("Authorization", "")
    shown = [cookie.value if cookie else "", header.removeprefix("Bearer ")]
    return any(hmac.compare_digest(one.encode(), token.encode()) for one in shown)


class _Refuse(web.RequestHandler):
    def prepare(self) -> None:
        self.set_status(401)
        self.set_header("WWW-Authenticate", "Bearer")
        self.finish(
            "Open this with ?token=... once; it is in the file token beside the certificates.\n"
        )


class _Welcome(web.RequestHandler):
    def initialize(self, token: str) -> None:
        self._token = token

    def get(self, *_: str) -> None:
        """Keep the token in a cookie, and out of the address that is shown."""
        self.set_cookie(COOKIE, self._token, httponly=True, secure=True, samesite="Strict")
        self.redirect("/" + self.request.path.lstrip("/"))
