"""load_prompts: one configured dataset as checked, tokenised, countable prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlpost.config.schema import DataConfig
from rlpost.data.conversation import Conversation
from rlpost.data.hashing import canonical_json
from rlpost.data.lengths import Encoded, fit_demonstrations, fit_prompts, length_remarks
from rlpost.data.problems import BadRows, Reason, RowError
from rlpost.data.schema import CheckedRow, check_rows
from rlpost.data.sources import read_source
from rlpost.data.templates import PromptEncoder
from rlpost.data.trajectory import Prompt, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptSet:
    """All prompts of one dataset, in its order.

    Attributes:
        prompts: at least one.
        fingerprint: SHA-256 over every prompt's id, token ids, columns and demonstration, in order;
            equal fingerprints mean that a run may resume on this data.
        counts: "rows" looked at, "broken" ones, "kept", "dropped" and "truncated" for their prompt's length,
            and "duplicates": rows kept although an earlier one has the same prompt and answer. With a
            column of demonstrations also "demonstrations_dropped" and "demonstrations_truncated" for
            their length, and "demonstrations_missing": prompts that never had one. A dropped one takes its
            row along, unless a prompt may be without; then rows = broken + kept + dropped.
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
    optional_demonstrations: bool = False,
) -> PromptSet:
    """Read, check and tokenise a dataset; all rows are looked at before anything is returned.

    Args:
        config: up to `max_broken_share` of the rows may be broken, and are left out; none when it is None.
        seed: decides which problems a built-in task draws, and their order; files ignore it.
        conversation: an environment's: prompts tell of its tools, and demonstrations call them in its format.
        optional_demonstrations: a row whose demonstration is null, not there, or dropped for its length is
            a prompt without one. Otherwise it is broken, or dropped.

    Raises:
        ConfigError: the source, the template or a task's options contradict each other.
        DataError: the source cannot be read, is empty, or holds too many broken rows (the first five are
            listed and all are counted), or overlong prompts or demonstrations where these are an error.
    """
    encoder = PromptEncoder.of(config, tokenizer, conversation)
    source = read_source(config, seed)
    rows, duplicates = check_rows(source, config, encoder.conversation is not None, optional_demonstrations)
    encoded = _encode(rows, encoder, source.bad)
    source.bad.raise_above(config.max_broken_share or 0.0, source.total)
    fitted = fit_prompts(encoded, config, source.name)
    shown = fit_demonstrations(
        fitted.kept, config, source.name, encoder.decode, optional=optional_demonstrations
    )
    prompts = tuple(_prompt(row, encoder, source.name) for row in shown.kept)
    counts = {
        "rows": source.total,
        "broken": len(source.bad),
        "kept": len(prompts),
        "dropped": fitted.dropped,
        "truncated": fitted.truncated,
        "duplicates": duplicates,
    }
    if config.demonstration_column is not None:
        counts |= {
            "demonstrations_dropped": shown.dropped,
            "demonstrations_truncated": shown.truncated,
            "demonstrations_missing": sum(row.demonstration is None for row in rows),
        }
    remarks = [source.bad.remark(source.total), *length_remarks(counts, config, source.name)]
    return PromptSet(
        prompts, _fingerprint(prompts), counts, source.bad.reasons, tuple(text for text in remarks if text)
    )


def _encode(rows: Sequence[CheckedRow], plain: PromptEncoder, bad: BadRows) -> list[Encoded]:
    encoded = []
    with_tools: dict[str, PromptEncoder] = {}
    for row in rows:
        try:
            if row.tools:
                known = repr(row.tools)
                encoder = with_tools[known] = with_tools.get(known) or plain.told_of(row.tools)
            else:
                encoder = plain
            chosen, rejected = (
                None if shown is None else encoder.encode_demonstration(shown)
                for shown in (row.demonstration, row.rejected)
            )
            ids = encoder.encode(row.prompt) + encoder.encode_prefill(row.prefill)
            encoded.append(Encoded(row, ids, chosen, rejected))
        except RowError as problem:
            bad.add(row.place, problem)
    return encoded


def _prompt(encoded: Encoded, encoder: PromptEncoder, source: str) -> Prompt:
    row = encoded.row
    return Prompt(
        id=row.id,
        text=encoder.decode(encoded.ids),
        token_ids=encoded.ids,
        columns=row.columns,
        demonstration=encoded.demonstration,
        rejected=encoded.rejected,
        place=f"{source}, {row.place}",
        messages=encoder.messages(row.prompt),
        prefill=row.prefill,
    )


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for p in prompts:
        pair = [] if p.rejected is None else [_shown(p.rejected)]
        digest.update(canonical_json([p.id, p.token_ids, p.columns, _shown(p.demonstration), *pair]) + b"\n")
    return digest.hexdigest()


def _shown(turns: Sequence[Turn] | None) -> object:
    """A demonstration for the fingerprint: the ids of a single turn, and who said what in a dialogue."""
    if turns is None or len(turns) == 1:
        return turns and turns[0].token_ids
    return [(turn.by_policy, turn.token_ids) for turn in turns]
