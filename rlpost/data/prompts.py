"""load_prompts: one configured dataset as checked, tokenised, countable prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlpost.config.schema import DataConfig
from rlpost.data.conversation import Conversation
from rlpost.data.hashing import canonical_json
from rlpost.data.problems import BadRows, Reason, RowError, listing
from rlpost.data.schema import CheckedRow, check_rows
from rlpost.data.sources import read_source
from rlpost.data.templates import PromptEncoder
from rlpost.data.trajectory import Prompt, Turn
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


def load_prompts(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    conversation: Conversation | None = None,
) -> PromptSet:
    """Read, check and tokenise a dataset; all rows are looked at before anything is returned.

    Args:
        config: up to `max_broken_share` of the rows may be broken, and are left out; none when it is None.
        seed: decides which problems a built-in task draws, and their order; files ignore it.
        conversation: an environment's: prompts tell of its tools, and demonstrations call them in its format.

    Raises:
        ConfigError: the source, the template or a task's options contradict each other.
        DataError: the source cannot be read, is empty, or holds too many broken rows (the first five are
            listed and all are counted), or overlong prompts under `overlong_prompts: error`.
    """
    encoder = PromptEncoder.of(config, tokenizer, conversation)
    source = read_source(config, seed)
    rows, duplicates = check_rows(source, config, encoder.conversation is not None)
    encoded = _encode(rows, encoder, source.bad)
    source.bad.raise_above(config.max_broken_share or 0.0, source.total)
    kept, truncated = _fit(encoded, config, source.name)
    prompts = tuple(_prompt(row, encoder, source.name) for row in kept)
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


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A row with the ids of its prompt and the turns of its demonstration."""

    row: CheckedRow
    ids: tuple[int, ...]
    demonstration: tuple[Turn, ...] | None


def _encode(rows: Sequence[CheckedRow], plain: PromptEncoder, bad: BadRows) -> list[_Encoded]:
    encoded = []
    with_tools: dict[str, PromptEncoder] = {}
    for row in rows:
        try:
            if row.tools:
                known = repr(row.tools)
                encoder = with_tools[known] = with_tools.get(known) or plain.told_of(row.tools)
            else:
                encoder = plain
            shown = row.demonstration
            turns = None if shown is None else encoder.encode_demonstration(shown)
            ids = encoder.encode(row.prompt) + encoder.encode_prefill(row.prefill)
            encoded.append(_Encoded(row, ids, turns))
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


def _fit(encoded: Sequence[_Encoded], config: DataConfig, source: str) -> tuple[list[_Encoded], int]:
    """What `overlong_prompts` leaves of the rows, and how many prompts it cut."""
    limit = config.max_prompt_tokens
    long = [e for e in encoded if len(e.ids) > limit]
    if long and config.overlong_prompts == "error":
        raise DataError(
            f"{len(long)} of {len(encoded)} prompts have more than {limit} tokens",
            where=source,
            found=listing(f"{e.row.place}: {len(e.ids)} tokens" for e in long),
            needed=f"data.max_prompt_tokens = {limit} at most",
            remedy=f"set data.max_prompt_tokens={max(len(e.ids) for e in long)} to fit all, "
            "or data.overlong_prompts to drop or truncate",
        )
    if config.overlong_prompts == "truncate":
        return [replace(e, ids=e.ids[-limit:]) for e in encoded], len(long)
    kept = [e for e in encoded if len(e.ids) <= limit]
    if not kept:
        raise DataError(
            "every prompt was dropped for its length",
            where=source,
            found=f"the shortest of {len(encoded)} prompts has {min(len(e.ids) for e in encoded)} tokens",
            needed=f"data.max_prompt_tokens = {limit} at most",
            remedy="raise data.max_prompt_tokens",
        )
    return kept, 0


def _prompt(encoded: _Encoded, encoder: PromptEncoder, source: str) -> Prompt:
    row = encoded.row
    return Prompt(
        id=row.id,
        text=encoder.decode(encoded.ids),
        token_ids=encoded.ids,
        columns=row.columns,
        demonstration=encoded.demonstration,
        place=f"{source}, {row.place}",
        messages=encoder.messages(row.prompt),
        prefill=row.prefill,
    )


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for p in prompts:
        digest.update(canonical_json([p.id, p.token_ids, p.columns, _shown(p)]) + b"\n")
    return digest.hexdigest()


def _shown(prompt: Prompt) -> object:
    """A demonstration for the fingerprint: the ids of a single turn, and who said what in a dialogue."""
    turns = prompt.demonstration
    if turns is None or len(turns) == 1:
        return turns and turns[0].token_ids
    return [(turn.by_policy, turn.token_ids) for turn in turns]
