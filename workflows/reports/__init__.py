"""Reports on stores, as terminal lines and HTML pages, and what the pages of runs share with them.

store_report   the report at the end of a run     store_model   its data
store_page     its page and its lines             store_info    `tesserae info`
quarantine     reasons of quarantined rows        class_lines   lines about classes
html           pages from templates               charts        line charts
curve_names    names of training metrics         table         tables as text
images         images that a page embeds          options       the options of `tesserae info`
"""
