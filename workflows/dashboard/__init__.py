"""The Tesserae page of Dask's dashboard, which shows the progress of runs.

    preview     thumbnails and quarantined rows of a shard that was just stored
    publisher   the command's side: sends progress to the scheduler as events
    state       the scheduler's side: aggregates the events in bounded memory
    page        the bokeh page that draws this state
    plugin      installs it all on a scheduler, with a JSON route and Prometheus metrics

The only pixels that are sent are those of small thumbnails. A failure here costs the page, never a
run.
"""
