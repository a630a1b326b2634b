"""Loads Dask's dashboard at its first request, and adds pages, JSON and metrics to it.

Loading it takes half a second of CPU and fifty megabytes in a process that also runs a task graph,
and most short runs end before anyone opens a page.

Dask has no public interface for additional pages. This module uses internals of Dask instead: a
scheduler's `http_application`, a `RoutingApplication` to which applications are added; and
`template_variables`, which lists the pages of the navigation. They may change in another version of
Dask, so callers must be able to run without the dashboard.
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
    """A metric for Prometheus, with a value for each set of labels."""

    name: str
    description: str
    kind: Literal["counter", "gauge"]
    values: Sequence[tuple[dict[str, str], float]]
    """The samples, as (labels, value)."""


@dataclass(frozen=True)
class _DashboardPage:
    name: str
    module: str
    """The name of a module with `draw(document, state)`, which is imported at the first request."""
    state: Any


_pages: WeakKeyDictionary[Scheduler, list[_DashboardPage]] = WeakKeyDictionary()
"""The additional pages of each scheduler whose dashboard is not loaded yet."""


def install_lazy_dashboard(scheduler: Scheduler) -> None:
    """Make a scheduler load its dashboard at the first request for a page of it.

    Args:
        scheduler: A scheduler that was started without a dashboard; its HTTP application is
            changed.
    """
    application = scheduler.http_application
    loading_application = web.Application([(r"/.*", _LoadingHandler, {"scheduler": scheduler})])
    application.add_application(loading_application)
    _pages[scheduler] = []


def add_page(scheduler: Scheduler, name: str, module: str, state: Any) -> None:
    """Add a page at /NAME to the dashboard, with a link in the navigation of all pages.

    Nothing happens if *scheduler* has no dashboard: neither was it started with one, nor was
    `install_lazy_dashboard` called for it.

    Args:
        scheduler: The scheduler with the dashboard, which is changed in place.
        name: Name of the page, in its address and link, such as `tesserae` for `/tesserae`.
        module: Name of a module that is imported when the page is first opened; its function
            `draw(document, state)` fills a bokeh `Document`, a new one each time that a browser
            opens the page.
        state: Any object, which is passed to `draw` as it is.
    """
    page = _DashboardPage(name, module, state)
    if scheduler in _pages:
        _pages[scheduler].append(page)
    elif _has_dashboard(scheduler):
        _serve_pages(scheduler, [page])


def _has_dashboard(scheduler: Scheduler) -> bool:
    """Return True if Dask's dashboard was loaded when *scheduler* started."""
    applications = scheduler.http_application.applications
    return any(
        type(application).__module__.startswith("distributed.dashboard")
        for application in applications
    )


def add_json(scheduler: Scheduler, path: str, compute: Callable[[], Any]) -> None:
    """Answer GET requests to a path with the result of a function, as JSON.

    Args:
        scheduler: The scheduler with the HTTP server, which is changed in place.
        path: The path, a regular expression without groups that must match all of it, such as
            `/tesserae.json`.
        compute: The function, which is called without arguments at each request in the event loop,
            and returns a value for `json.dumps`; infinities and NaN become null.
    """
    route = (path, _JsonHandler, {"answer": compute})
    # Handlers are matched before applications, the last of which may answer every path.
    scheduler.http_application.add_handlers(r".*$", [route])


def add_metrics(scheduler: Scheduler, name: str, collect: Callable[[], Iterable[Metric]]) -> None:
    """Add metrics to /metrics of a scheduler's process; nothing happens without prometheus_client.

    Args:
        scheduler: The scheduler with the HTTP server, which is not used: the metrics belong to the
            process.
        name: Name of the group, which no metric shows; it replaces an earlier group of that name in
            this process.
        collect: Function that returns the metrics; it is called without arguments at each request.
            A `Metric` has a `name` (to which `_total` is appended for a counter), a `description`,
            a `kind` (`counter` or `gauge`) and `values`: samples as (labels, number), whose labels
            are texts by name, of the same names in each.
    """
    try:
        from prometheus_client import REGISTRY
    except ModuleNotFoundError:  # Dask's /metrics is empty without it, too
        return
    collector = _PrometheusCollector(collect)
    _collectors.setdefault(name, [])
    for old in _collectors[name]:
        REGISTRY.unregister(old)
    _collectors[name] = [collector]
    REGISTRY.register(collector)


_collectors: dict[str, list[Any]] = {}
"""The registered collectors by group: the registry is global, and outlives a scheduler."""


class _PrometheusCollector:
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> list[Any]:
        """Return no metrics in advance, so that registering does not collect."""
        return []

    def collect(self) -> Iterable[Any]:
        """Yield the metrics as metric families of `prometheus_client`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in self._collect():
            labels = sorted({label for label_values, _ in metric.values for label in label_values})
            family = families[metric.kind](metric.name, metric.description, labels=labels)
            for label_values, value in metric.values:
                family.add_metric([label_values[label] for label in labels], value)
            yield family


class _JsonHandler(web.RequestHandler):
    def initialize(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def get(self) -> None:
        """Send the JSON, which must not be cached."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(_without_non_finite(self._answer())))


def _without_non_finite(value: Any) -> Any:
    """Return *value* with infinities and NaN replaced by None, since JSON has neither."""
    if isinstance(value, dict):
        return {name: _without_non_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _LoadingHandler(web.RequestHandler):
    """The handler of all dashboard pages until the dashboard is loaded."""

    def initialize(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def get(self) -> None:
        """Load the dashboard, and redirect the browser to the same address."""
        from distributed.dashboard.scheduler import connect

        root = self._scheduler.http_application
        # Browsers request several files at once: only the first request finds this application.
        if self.application in root.applications:
            root.applications.remove(self.application)
            _serve_pages(self._scheduler, _pages.pop(self._scheduler, []))
            connect(root, self._scheduler.http_server, self._scheduler)
        self.redirect("/" + self.request.uri.lstrip("/"))  # two slashes would lead to another host

    head = get


def _serve_pages(scheduler: Scheduler, pages: Sequence[_DashboardPage]) -> None:
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    if not pages:
        return
    variables = template_variables(scheduler)
    for page in pages:
        if page.name not in variables["pages"]:
            variables["pages"].insert(0, page.name)
    application = BokehApplication(
        {f"/{page.name}": _document_filler(page) for page in pages},
        scheduler,
        template_variables=variables,
    )
    # Before Dask's own application, which redirects unknown paths to its first page.
    scheduler.http_application.applications.insert(0, application)
    application.initialize(IOLoop.current())
    application.start()


def _document_filler(page: _DashboardPage) -> Callable[[Scheduler, dict[str, Any], Any], None]:
    def fill(scheduler: Scheduler, extra: dict[str, Any], document: Any) -> None:
        from distributed.dashboard.components.scheduler import BOKEH_THEME, env

        document.template = env.get_template("simple.html")
        document.template_variables.update(extra)
        document.theme = BOKEH_THEME
        importlib.import_module(page.module).draw(document, page.state)

    return fill
