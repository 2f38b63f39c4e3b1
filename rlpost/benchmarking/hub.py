"""Whether the Hugging Face hub can be reached: asked once, since its libraries retry each file for long."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rlpost.benchmarking.options import EvalOptions
from rlpost.evaluation import Benchmark

DEADLINE_S = 8.0
OFFLINE = "HF_HUB_OFFLINE"


def needs_hub(models: Sequence[str], benchmarks: Sequence[Benchmark], options: EvalOptions) -> bool:
    """Whether a model or a benchmark's file is to come from there, or from what was downloaded before."""
    tokenizers = [] if options.endpoint is not None and options.chat else models
    folder = Path("data")
    missing = [b for b in benchmarks if b.hub is not None and not (folder / b.path).is_file()]
    return any(m != "tiny" and not Path(m).is_dir() for m in tokenizers) or (
        options.data_dir is None and bool(missing)
    )


def unreachable_hub() -> str | None:
    """Why the hub cannot be reached; None when it can, or when nobody is to try.

    Where it cannot, this process and its children use what was downloaded before, and say at once what
    they do not find.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S):
            return None
    except urllib.error.HTTPError:
        return None  # it answered
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, (socket.gaierror, TimeoutError, ConnectionError)):
            return None  # such as a certificate, which the libraries may know better
    os.environ[OFFLINE] = "1"
    constants.HF_HUB_OFFLINE = True
    return f"{constants.ENDPOINT}: {reason}"
