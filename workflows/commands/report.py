"""Write `report.html` in the folder of a run: loss curves, samples and evaluation metrics.

With several runs, `comparison.html` shows their curves in the same charts, and the options that
differ. Each page is one self-contained file. --backbone adds the metrics that need a network's
features (FID and others), labelled with the network's name. Published values use Inception-v3 and
cannot be compared with those of another network.
"""

from workflows.commands import Command
from workflows.runs.options import ReportOptions

COMMAND = Command((ReportOptions,), "workflows.runs.report:run_report")
