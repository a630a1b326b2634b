"""Dask's dashboard, loaded when a page of it is asked for, and not before.

It is half a second of CPU and fifty megabytes in a process that also has a graph to run. Most
short runs end before anybody looks.
"""

from __future__ import annotations

from distributed import Scheduler
from tornado import web


def offer(scheduler: Scheduler) -> None:
    """Serve the dashboard of *scheduler*, which was started without one, at its address."""
    application = scheduler.http_application
    late = web.Application([(r"/.*", _Loading, {"scheduler": scheduler})])
    application.add_application(late)


class _Loading(web.RequestHandler):
    """Stands in for every page of the dashboard until the first is asked for."""

    def initialize(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def get(self) -> None:
        """Load the dashboard, and have the browser ask again."""
        from distributed.dashboard.scheduler import connect

        offered = self._scheduler.http_application
        if self.application in offered.applications:
            connect(offered, self._scheduler.http_server, self._scheduler)
            offered.applications.remove(self.application)
        self.redirect("/" + self.request.uri.lstrip("/"))  # two slashes would name another host

    head = get
