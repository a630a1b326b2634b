"""The processes of a cluster: schedulers and workers, and how they are started and supervised."""
