"""Tuning: which workers, threads and readers prepare the images of a source fastest here?

settings       the settings that are tried, by cores and memory
samples        images of the source to try them on
trial_process  a process that runs the work of `prepare` for some seconds
trials         the processes of all trials, and the rate of one setting
search         rounds of trials, of which the slower half of the settings leaves
command        `tesserae tune`, and the tuning of `prepare --workers auto`
"""
