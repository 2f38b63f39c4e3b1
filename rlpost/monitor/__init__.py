"""Monitoring: the table of metrics, their files, progress on the terminal, the HTML report.

Importing this folder is cheap; rich, tensorboard and plotly load when they are used.
"""

from rlpost.monitor.catalogue import METRICS, Metric, describe, undocumented
from rlpost.monitor.progress import Progress
from rlpost.monitor.report import write_report
from rlpost.monitor.writer import MetricsWriter, read_metrics

__all__ = [
    "METRICS",
    "Metric",
    "MetricsWriter",
    "Progress",
    "describe",
    "read_metrics",
    "undocumented",
    "write_report",
]
