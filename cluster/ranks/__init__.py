"""The ranks of a training world: processes that Dask places, and that its tasks supervise.

world             starts all ranks, and starts them again when one is lost
slots             the workers on which ranks can run
rank_supervisor   the Dask task that supervises the process of one rank
rank_process      the process of one rank, in which a stage trains
"""
