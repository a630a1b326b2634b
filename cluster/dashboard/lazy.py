"""Dask's dashboard: loaded when a page of it is asked for, with pages and figures of others on it.

Loading it is half a second of CPU and fifty megabytes in a process that also has a graph to run,
and most short runs end before anybody looks.

Dask has no door for pages of others. What is used here instead, all of it internal to Dask: a
scheduler's `http_application`, a `RoutingApplication` to which applications are added; and
`template_variables`, which names the pages in the navigation. Another version of Dask may have
others; who calls this must be able to do without.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from distributed import Scheduler
from tornado import web
from tornado.ioloop import IOLoop


@dataclass(frozen=True)
class Metric:
    """One series of figures for Prometheus."""

    name: str
    what: str
    kind: Literal["counter", "gauge"]
    values: Sequence[tuple[dict[str, str], float]]
    """Labels and value of each."""


@dataclass(frozen=True)
class _Page:
    name: str
    module: str
    """Has `draw(document, state)`, and is imported, as bokeh is, when somebody looks."""
    state: Any


_pages: WeakKeyDictionary[Scheduler, list[_Page]] = WeakKeyDictionary()
"""Pages of schedulers whose dashboard is not loaded yet."""


def offer(scheduler: Scheduler) -> None:
    """Serve the dashboard of *scheduler*, which was started without one, at its address."""
    application = scheduler.http_application
    late = web.Application([(r"/.*", _Loading, {"scheduler": scheduler})])
    application.add_application(late)
    _pages[scheduler] = []


def add_page(scheduler: Scheduler, name: str, module: str, state: Any) -> None:
    """Put a page at /NAME on the dashboard, and a link to it in the navigation of all pages.

    Nothing is done if *scheduler* has no dashboard and offers none.

    Args:
        scheduler: Whose dashboard.
        name: Of the page.
        module: Imported by name when the dashboard is loaded: its `draw(document, state)` fills the
            bokeh document of one visitor.
        state: What it draws from.
    """
    page = _Page(name, module, state)
    if scheduler in _pages:
        _pages[scheduler].append(page)
    elif _has_dashboard(scheduler):
        _serve(scheduler, [page])


def _has_dashboard(scheduler: Scheduler) -> bool:
    """Return True if Dask's dashboard was loaded when *scheduler* started."""
    served = scheduler.http_application.applications
    return any(type(one).__module__.startswith("distributed.dashboard") for one in served)


def add_json(scheduler: Scheduler, path: str, answer: Callable[[], Any]) -> None:
    """Answer GET of *path* with what *answer* returns, as JSON."""
    route = (path, _Json, {"answer": answer})
    # Before the applications, the last of which may answer everything.
    scheduler.http_application.add_handlers(r".*$", [route])


def add_metrics(scheduler: Scheduler, name: str, collect: Callable[[], Iterable[Metric]]) -> None:
    """Have /metrics say what *collect* yields, for as long as *scheduler* runs."""
    try:
        from prometheus_client import REGISTRY
    except ModuleNotFoundError:  # then Dask's /metrics has nothing to say either
        return
    collector = _Collector(collect)
    _collectors.setdefault(name, [])
    for old in _collectors[name]:
        REGISTRY.unregister(old)
    _collectors[name] = [collector]
    REGISTRY.register(collector)


_collectors: dict[str, list[Any]] = {}
"""Prometheus has one registry in a process, which may have had a scheduler before."""


class _Collector:
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> list[Any]:
        """Nothing in advance."""
        return []

    def collect(self) -> Iterable[Any]:
        """As Prometheus's library wants it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in self._collect():
            labels = sorted({label for named, _ in metric.values for label in named})
            family = families[metric.kind](metric.name, metric.what, labels=labels)
            for named, value in metric.values:
                family.add_metric([named[label] for label in labels], value)
            yield family


class _Json(web.RequestHandler):
    def initialize(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def get(self) -> None:
        """Say it."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(_finite(self._answer())))


def _finite(value: Any) -> Any:
    """JSON knows no infinity, and no NaN: a loss that diverged is null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Loading(web.RequestHandler):
    """Stands in for every page of the dashboard until the first is asked for."""

    def initialize(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def get(self) -> None:
        """Load the dashboard, and have the browser ask again."""
        from distributed.dashboard.scheduler import connect

        offered = self._scheduler.http_application
        if self.application in offered.applications:
            offered.applications.remove(self.application)
            _serve(self._scheduler, _pages.pop(self._scheduler, []))
            connect(offered, self._scheduler.http_server, self._scheduler)
        self.redirect("/" + self.request.uri.lstrip("/"))  # two slashes would name another host

    head = get


def _serve(scheduler: Scheduler, pages: Sequence[_Page]) -> None:
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    if not pages:
        return
    variables = template_variables(scheduler)
    for page in pages:
        if page.name not in variables["pages"]:
            variables["pages"].insert(0, page.name)
    application = BokehApplication(
        {f"/{page.name}": _document(page) for page in pages},
        scheduler,
        template_variables=variables,
    )
    # Before Dask's own, which sends what it does not know to its first page.
    scheduler.http_application.applications.insert(0, application)
    application.initialize(IOLoop.current())
    application.start()


def _document(page: _Page) -> Callable[[Scheduler, dict[str, Any], Any], None]:
    def fill(scheduler: Scheduler, extra: dict[str, Any], document: Any) -> None:
        from distributed.dashboard.components.scheduler import BOKEH_THEME, env

        document.template = env.get_template("simple.html")
        document.template_variables.update(extra)
        document.theme = BOKEH_THEME
        importlib.import_module(page.module).draw(document, page.state)

    return fill
