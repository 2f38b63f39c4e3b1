"""Lengths: what becomes of prompts and demonstrations that are longer than the recipe allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rlpost.config.schema import DataConfig
from rlpost.data.conversation import unsampled
from rlpost.data.problems import listing
from rlpost.data.schema import CheckedRow
from rlpost.data.trajectory import Turn
from rlpost.errors import DataError

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row with the ids of its prompt, and the turns of its demonstration and of the rejected response."""

    row: CheckedRow
    ids: tuple[int, ...]
    demonstration: tuple[Turn, ...] | None = None
    rejected: tuple[Turn, ...] | None = None

    @property
    def shown_tokens(self) -> int:
        """Of the longer one of the two responses that are learnt from."""
        return max(length(self.demonstration or ()), length(self.rejected or ()))


@dataclass(frozen=True)
class Fitted:
    """What is left of the rows.

    Attributes:
        kept: the rows, some of them cut or without their demonstration.
        dropped: rows, or demonstrations where a prompt may be without one.
        truncated: rows of which something was cut.
    """

    kept: list[Encoded]
    dropped: int = 0
    truncated: int = 0


def length(turns: Sequence[Turn]) -> int:
    """Tokens of a dialogue after its prompt."""
    return sum(len(turn.token_ids) for turn in turns)


def fit_prompts(encoded: Sequence[Encoded], config: DataConfig, source: str) -> Fitted:
    """What `overlong_prompts` leaves of the rows.

    Raises:
        DataError: some prompt is longer than allowed and that is an error, or all of them are.
    """
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
        return Fitted([replace(e, ids=e.ids[-limit:]) for e in encoded], truncated=len(long))
    kept = [e for e in encoded if len(e.ids) <= limit]
    if not kept:
        raise DataError(
            "every prompt was dropped for its length",
            where=source,
            found=f"the shortest of {len(encoded)} prompts has {min(len(e.ids) for e in encoded)} tokens",
            needed=f"data.max_prompt_tokens = {limit} at most",
            remedy="raise data.max_prompt_tokens",
        )
    return Fitted(kept, dropped=len(encoded) - len(kept))


def fit_demonstrations(
    encoded: Sequence[Encoded], config: DataConfig, source: str, decode: Decode, *, optional: bool
) -> Fitted:
    """What `overlong_demonstrations` leaves of the rows; a pair is as long as the longer of its responses.

    Args:
        decode: text of token ids.
        optional: a prompt whose demonstration is dropped stays without it.

    Raises:
        DataError: some demonstration is longer than allowed and that is an error, or all of them are; or
            there is none.
    """
    limit = config.max_demonstration_tokens
    if config.demonstration_column is not None and not any(e.demonstration for e in encoded):
        raise DataError(
            "no prompt has a demonstration",
            where=source,
            found=f"{config.demonstration_column!r} of {len(encoded)} rows is null or not there",
            remedy="name another column in data.demonstration_column, or learn from samples alone",
        )
    if limit is None:
        return Fitted(list(encoded))
    long = sum(e.shown_tokens > limit for e in encoded)
    if long and config.overlong_demonstrations == "error":
        raise _overlong(encoded, limit, source)
    fitted: list[Encoded | None] = []
    for e in encoded:
        if e.shown_tokens <= limit:
            fitted.append(e)
        elif config.overlong_demonstrations == "truncate":
            fitted.append(_shortened(e, limit, decode))
        else:
            fitted.append(replace(e, demonstration=None) if optional else None)
    kept = [e for e in fitted if e is not None]
    if not any(e.demonstration for e in kept):
        shortest = min(e.shown_tokens for e in encoded if e.demonstration is not None)
        raise DataError(
            "every demonstration was dropped for its length",
            where=source,
            found=f"the shortest has {shortest} tokens",
            needed=f"data.max_demonstration_tokens = {limit} at most",
            remedy="raise data.max_demonstration_tokens",
        )
    lost = sum(e is None or e.demonstration is None for e in fitted)
    dropped = lost - sum(e.demonstration is None for e in encoded)
    return Fitted(kept, dropped, long - dropped)


def _overlong(encoded: Sequence[Encoded], limit: int, source: str) -> DataError:
    long = [e for e in encoded if e.shown_tokens > limit]
    return DataError(
        f"{len(long)} of {len(encoded)} demonstrations have more than {limit} tokens",
        where=source,
        found=listing(f"{e.row.place}: {e.shown_tokens} tokens" for e in long),
        needed=f"data.max_demonstration_tokens = {limit} at most",
        remedy=f"set data.max_demonstration_tokens={max(e.shown_tokens for e in long)} to fit all, "
        "or data.overlong_demonstrations to drop or truncate",
    )


def _shortened(encoded: Encoded, limit: int, decode: Decode) -> Encoded | None:
    """With its responses cut; None for a pair that is the same then."""
    demonstration = cut_turns(encoded.demonstration or (), limit, decode)
    if encoded.rejected is None:
        return replace(encoded, demonstration=demonstration)
    rejected = cut_turns(encoded.rejected, limit, decode)
    if [turn.token_ids for turn in demonstration] == [turn.token_ids for turn in rejected]:
        return None
    return replace(encoded, demonstration=demonstration, rejected=rejected)


def cut_turns(turns: Sequence[Turn], limit: int, decode: Decode) -> tuple[Turn, ...]:
    """The first `limit` tokens of a demonstration, without what is not to be learnt at their end.

    No EOS is put behind them: the policy would learn to stop where the text was cut.
    """
    kept: list[Turn] = []
    for turn in turns:
        ids = turn.token_ids[: limit - length(kept)]
        if len(ids) == len(turn.token_ids):
            kept.append(turn)
            continue
        if ids:
            kept.append(unsampled(ids, decode(ids), by_policy=turn.by_policy))
        break
    while not kept[-1].by_policy:
        kept.pop()
    return tuple(kept)


def length_remarks(counts: Mapping[str, int], config: DataConfig, source: str) -> Iterator[str]:
    """What to tell people of what was left out or cut."""
    for what, counted, limit, policy, end in (
        ("prompts", "", config.max_prompt_tokens, "overlong_prompts", "last"),
        (
            "demonstrations",
            "demonstrations_",
            config.max_demonstration_tokens,
            "overlong_demonstrations",
            "first",
        ),
    ):
        for fate, words in (("dropped", "left out"), ("truncated", f"cut to their {end} tokens")):
            if many := counts.get(f"{counted}{fate}", 0):
                how_many = f"{many} of {counts['rows']} {what} have more than {limit} tokens"
                yield f"{source}: {how_many}, {words} (data.{policy}: {getattr(config, policy)})"
    if many := counts.get("demonstrations_missing", 0):
        yield (
            f"{source}: {many} of {counts['rows']} prompts have no demonstration in "
            f"{config.demonstration_column!r}, and are trained on without one"
        )
