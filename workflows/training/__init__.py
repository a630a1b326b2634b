"""The machinery that all training stages share: ranks, options, run folders and checkpoints.

stage        the protocol of a stage            stage_registry   the stages by name
options      options of every stage             run_options  options of `tesserae train`
launch       starts the ranks of a run          watcher      shows the progress of the ranks
loop         the loop of a rank                 batches      batches and micro-batches
world        collectives and keyed noise        finite       checks for NaN and infinity
run_folder   options, metrics, checkpoints      run_lock     one run at a time in a folder
records      documents of a run folder          writing      atomic writes of checkpoints
image_grid   tiles images into one              errors       errors of training
"""
