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

from workflows.cluster_commands import options
from workflows.commands import Command, Group

COMMAND = Group(
    "COMMAND",
    lambda: {
        "up": Command(
            (options.UpOptions,),
            "workflows.cluster_commands.background:up",
            "Start a scheduler and workers on this machine, in the background.",
        ),
        "status": Command(
            (options.StatusOptions,),
            "workflows.cluster_commands.status:status",
            "Show the running processes, the ports they listen on, and the connected workers.",
        ),
        "down": Command(
            (options.DownOptions,),
            "workflows.cluster_commands.background:down",
            "Stop the scheduler and the workers that `up` started.",
        ),
        "certs": Command(
            (options.CertsOptions,),
            "workflows.cluster_commands.files:certs",
            "Create a certificate authority, a certificate for each role, and a dashboard token.",
        ),
        "scheduler": Command(
            (options.SchedulerOptions,),
            "workflows.cluster_commands.foreground:scheduler",
            "Run a scheduler until Ctrl-C; restart it if it exits.",
        ),
        "worker": Command(
            (options.WorkerOptions,),
            "workflows.cluster_commands.foreground:worker",
            "Run this machine's workers until Ctrl-C; restart those that exit.",
        ),
        "wait": Command(
            (options.WaitOptions,),
            "workflows.cluster_commands.status:wait",
            "Wait until the given number of workers or GPUs has connected.",
        ),
        "units": Command(
            (options.UnitsOptions,),
            "workflows.cluster_commands.files:units",
            "Write systemd units for a scheduler and for workers.",
        ),
    },
)
