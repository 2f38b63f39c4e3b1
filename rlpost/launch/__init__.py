"""Starting a run where its machines are: here, on a Ray cluster, with Slurm, on Kubernetes.

Each launcher renders all that it will do from the templates in `launch/`, and then does it.
"""

from rlpost.launch.job import Job, Rendered, make_job

__all__ = ["Job", "Rendered", "make_job"]
