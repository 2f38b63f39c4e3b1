"""A teacher: another model that must read the policy's tokens as the policy does."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.config.schema import ModelConfig, TeacherConfig
from rlpost.errors import ConfigError
from rlpost.models.causal_lm import loading
from rlpost.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCKS, _BLOCK_BYTES = 64, 2**16
"""What a digest reads of a large file: blocks evenly spaced, so that no start waits for gigabytes."""


def teacher_model_config(policy: ModelConfig, teacher: TeacherConfig) -> ModelConfig:
    """How the teacher is loaded: as the policy, in float32 and without adapters."""
    own = {"init": teacher.init, "revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
    return policy.model_copy(update=own | {"dtype": "float32", "lora": None})


def check_teacher(policy: ModelConfig, teacher: TeacherConfig) -> None:
    """Make sure that the teacher gives log-probs of what the policy samples.

    Raises:
        ConfigError: its tokenizer cannot be loaded, or a token of the policy is another or none to it.
    """
    config = teacher_model_config(policy, teacher)
    try:
        theirs = load_tokenizer(config)
    except ConfigError as error:
        raise ConfigError(
            "the teacher cannot be loaded",
            where="teacher.init",
            found=f"{teacher.init}: {str(error).splitlines()[0]}",
            needed="a Hugging Face id, or a local model directory such as the policy/ of another run",
        ) from error
    differing = _differences(load_tokenizer(policy), theirs)
    if differing:
        raise ConfigError(
            "the teacher does not read the policy's tokens as the policy does",
            where="teacher.init",
            found=f"{teacher.init}: {'; '.join(differing)}",
            needed=f"the tokens of {policy.init} under the same ids",
            remedy="take a teacher of the same family, or learn from its responses as demonstrations",
        )


def teacher_fingerprint(policy: ModelConfig, teacher: TeacherConfig) -> str:
    """Tells one teacher from another, so that a resumed run has the one that it began with.

    Of a local directory a digest of its weights (of parts of large files) and configuration, of a model of
    the hub the commit that its revision stands for.

    Raises:
        ConfigError: nothing loadable is there.
    """
    folder = Path(teacher.init)
    if folder.is_dir():
        digest = hashlib.sha256()
        for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json")):
            if path.is_file():
                _add_file(digest, path)
        return digest.hexdigest()[:16]
    from transformers import AutoConfig

    with loading(teacher_model_config(policy, teacher)):
        known = AutoConfig.from_pretrained(
            teacher.init, revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
    return str(getattr(known, "_commit_hash", None) or teacher.revision)


def _differences(own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """What is not the same, in words."""
    found = []
    known, theirs = own.get_vocab(), other.get_vocab()
    differing = sorted(token for token, index in known.items() if theirs.get(token) != index)
    if differing:
        token = differing[0]
        id_there = theirs.get(token)
        there = "none" if id_there is None else f"{id_there}"
        found.append(
            f"{len(differing)} of {len(known)} tokens differ, such as {token!r}, "
            f"which is {known[token]} to the policy and {there} to the teacher"
        )
    for name in ("bos_token_id", "eos_token_id"):
        mine, there = getattr(own, name), getattr(other, name)
        if mine != there:
            found.append(f"{name} is {mine} of the policy and {there} of the teacher")
    return found


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name} {size}\n".encode())
    with path.open("rb") as file:
        if size <= _BLOCKS * _BLOCK_BYTES:
            digest.update(file.read())
            return
        for block in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
