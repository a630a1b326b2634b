"""The Tesserae page of Dask's dashboard: what runs have done, as they do it.

    sending   a command's side: what it has done, sent to the scheduler as events
    state     the scheduler's side: what was sent, summed up in bounded memory
    page      a page, drawn from that
    plugin    all of it put on a scheduler, with a JSON route and Prometheus series

No pixels but small thumbnails come here. Whatever fails costs the page, and never a run.
"""
