"""Copies of a training run's metrics in experiment trackers: TensorBoard, Weights & Biases, MLflow.

`launch` starts a process for each tracker beside the training, `process` is what it runs, and
`follow` reads the run folder there. So a tracker that is slow, prompts or crashes reaches neither
the ranks nor the command. The module of each tracker names the library that it writes with.
"""
