"""load_prompts: one configured dataset as checked, tokenised, countable prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlpost.config.schema import DataConfig
from rlpost.data.hashing import canonical_json
from rlpost.data.problems import BadRows, Reason, RowError, listing
from rlpost.data.schema import CheckedRow, check_rows
from rlpost.data.sources import read_source
from rlpost.data.templates import PromptEncoder
from rlpost.data.trajectory import Prompt
from rlpost.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptSet:
    """All prompts of one dataset, in its order.

    Attributes:
        prompts: at least one.
        fingerprint: SHA-256 over every prompt's id, token ids, columns and demonstration, in order;
            equal fingerprints mean that a run may resume on this data.
        counts: "rows" looked at, "broken" ones, "kept", "dropped" and "truncated" for their length, and
            "duplicates": rows kept although an earlier one has the same prompt and answer.
            rows = broken + kept + dropped.
        broken: the broken rows by reason; every reason is there.
        remarks: for people: what was left out or cut, where it stands and why; nothing when nothing was.
    """

    prompts: tuple[Prompt, ...]
    fingerprint: str
    counts: dict[str, int]
    broken: dict[Reason, int]
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


def load_prompts(config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> PromptSet:
    """Read, check and tokenise a dataset; all rows are looked at before anything is returned.

    Args:
        config: up to `max_broken_share` of the rows may be broken, and are left out; none when it is None.
        seed: decides which problems a built-in task draws, and their order; files ignore it.

    Raises:
        ConfigError: the source, the template or a task's options contradict each other.
        DataError: the source cannot be read, is empty, or holds too many broken rows (the first five are
            listed and all are counted), or overlong prompts under `overlong_prompts: error`.
    """
    encoder = PromptEncoder.of(config, tokenizer)
    source = read_source(config, seed)
    rows, duplicates = check_rows(source, config, encoder.chat)
    encoded = _encode(rows, encoder, source.bad)
    source.bad.raise_above(config.max_broken_share or 0.0, source.total)
    kept, truncated = _fit(encoded, config, source.name)
    prompts = tuple(_prompt(row, ids, encoder, source.name) for row, ids in kept)
    counts = {
        "rows": source.total,
        "broken": len(source.bad),
        "kept": len(prompts),
        "dropped": len(encoded) - len(prompts),
        "truncated": truncated,
        "duplicates": duplicates,
    }
    remarks = [source.bad.remark(source.total), *_length_remarks(counts, config, source.name)]
    return PromptSet(
        prompts, _fingerprint(prompts), counts, source.bad.reasons, tuple(text for text in remarks if text)
    )


Encoded = tuple[CheckedRow, tuple[int, ...]]


def _encode(rows: Sequence[CheckedRow], encoder: PromptEncoder, bad: BadRows) -> list[Encoded]:
    encoded = []
    for row in rows:
        try:
            encoded.append((row, encoder.encode(row.prompt)))
        except RowError as problem:
            bad.add(row.place, problem)
    return encoded


def _length_remarks(counts: Mapping[str, int], config: DataConfig, source: str) -> Iterator[str]:
    for name, fate in (("dropped", "left out"), ("truncated", "cut to their last tokens")):
        if counts[name]:
            many = (
                f"{counts[name]} of {counts['rows']} prompts have more than {config.max_prompt_tokens} tokens"
            )
            yield f"{source}: {many}, {fate} (data.overlong_prompts: {config.overlong_prompts})"


def _fit(encoded: Sequence[Encoded], config: DataConfig, source: str) -> tuple[list[Encoded], int]:
    """What `overlong_prompts` leaves of the rows, and how many prompts it cut."""
    limit = config.max_prompt_tokens
    long = [(row, ids) for row, ids in encoded if len(ids) > limit]
    if long and config.overlong_prompts == "error":
        raise DataError(
            f"{len(long)} of {len(encoded)} prompts have more than {limit} tokens",
            where=source,
            found=listing(f"{row.place}: {len(ids)} tokens" for row, ids in long),
            needed=f"data.max_prompt_tokens = {limit} at most",
            remedy=f"set data.max_prompt_tokens={max(len(ids) for _, ids in long)} to fit all, "
            "or data.overlong_prompts to drop or truncate",
        )
    if config.overlong_prompts == "truncate":
        return [(row, ids[-limit:]) for row, ids in encoded], len(long)
    kept = [(row, ids) for row, ids in encoded if len(ids) <= limit]
    if not kept:
        raise DataError(
            "every prompt was dropped for its length",
            where=source,
            found=f"the shortest of {len(encoded)} prompts has {min(len(ids) for _, ids in encoded)} tokens",
            needed=f"data.max_prompt_tokens = {limit} at most",
            remedy="raise data.max_prompt_tokens",
        )
    return kept, 0


def _prompt(row: CheckedRow, ids: tuple[int, ...], encoder: PromptEncoder, source: str) -> Prompt:
    text = row.demonstration
    return Prompt(
        id=row.id,
        text=encoder.decode(ids),
        token_ids=ids,
        columns=row.columns,
        demonstration=None if text is None else encoder.encode_demonstration(text),
        place=f"{source}, {row.place}",
    )


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for p in prompts:
        digest.update(canonical_json([p.id, p.token_ids, p.columns, p.demonstration]) + b"\n")
    return digest.hexdigest()
