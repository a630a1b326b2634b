"""Start, inspect and stop a persistent cluster that several commands can share.

    tesserae cluster up                 start a scheduler and workers here, in the background
    tesserae cluster status             show processes, open ports and the dashboard's address
    tesserae cluster down               stop what `up` started
    tesserae cluster certs              create a certificate authority, role certificates, a token
    tesserae cluster scheduler          run a scheduler in the foreground until Ctrl-C
    tesserae cluster worker ADDRESS     run this machine's workers in the foreground until Ctrl-C
    tesserae cluster wait ADDRESS       wait until a number of workers or GPUs has connected
    tesserae cluster units FOLDER       write systemd units for a scheduler and for workers

Pass `--cluster tls://HOST:PORT` to run another command on this cluster. Without it, each command
starts a temporary cluster on this machine.
"""

from workflows import cluster_options
from workflows.commands import Command, Group

COMMAND = Group(
    "COMMAND",
    lambda: {
        "up": Command(
            (cluster_options.UpOptions,),
            "workflows.cluster_programs:up",
            "Start a scheduler and workers on this machine, in the background.",
        ),
        "status": Command(
            (cluster_options.StatusOptions,),
            "workflows.cluster_programs:status",
            "Show the running processes, the ports they listen on, and the connected workers.",
        ),
        "down": Command(
            (cluster_options.DownOptions,),
            "workflows.cluster_programs:down",
            "Stop the scheduler and the workers that `up` started.",
        ),
        "certs": Command(
            (cluster_options.CertsOptions,),
            "workflows.cluster_programs:certs",
            "Create a certificate authority, a certificate for each role, and a dashboard token.",
        ),
        "scheduler": Command(
            (cluster_options.SchedulerOptions,),
            "workflows.cluster_programs:scheduler",
            "Run a scheduler until Ctrl-C; restart it if it exits.",
        ),
        "worker": Command(
            (cluster_options.WorkerOptions,),
            "workflows.cluster_programs:worker",
            "Run this machine's workers until Ctrl-C; restart those that exit.",
        ),
        "wait": Command(
            (cluster_options.WaitOptions,),
            "workflows.cluster_programs:wait",
            "Wait until the given number of workers or GPUs has connected.",
        ),
        "units": Command(
            (cluster_options.UnitsOptions,),
            "workflows.cluster_programs:units",
            "Write systemd units for a scheduler and for workers.",
        ),
    },
)
