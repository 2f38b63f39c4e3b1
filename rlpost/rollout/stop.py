"""Stop strings: where a response ends because of what its text holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARGIN = 8


class TextView:
    """Token ids as text, without special tokens and with every space as it was sampled."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # `all_special_ids` lacks special tokens without a role, which decoding skips as well.
        added = tokenizer.added_tokens_decoder.items()
        self.id_of_special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        self.id_of_special |= {token.content: i for i, token in added if token.special}
        self.special_ids = frozenset(self.id_of_special.values())

        self._text_of: dict[int, str] = {}

    def token(self, token_id: int) -> str:
        """The text of one token by itself; U+FFFD stands for part of a character."""
        if token_id not in self._text_of:
            self._text_of[token_id] = self([token_id])
        return self._text_of[token_id]

    def __call__(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopWatch:
    """Watches one response for its stop strings while it is sampled.

    A stop string may begin in one token and end in another, even inside a character's bytes.
    While sampling, only a window of the last tokens is decoded, wide enough for the longest
    stop string; `finish` looks at the whole text, so the outcome never depends on the window.
    A stop string that is a special token's text (such as `<|im_end|>`) never shows in the
    text and is matched by its id.
    """

    def __init__(self, stop: Sequence[str], view: TextView) -> None:
        self._view = view
        self._ids = frozenset(view.id_of_special[s] for s in stop if s in view.id_of_special)
        self._strings = tuple(s for s in stop if s not in view.id_of_special)
        self._last_characters = {s[-1] for s in self._strings}
        self._window = max((len(s.encode()) for s in self._strings), default=0) + _MARGIN
        self._token_ids: list[int] = []
        self._visible: list[int] = []

    def push(self, token_id: int) -> bool:
        """Take the next token; True when the response is over."""
        self._token_ids.append(token_id)
        if token_id in self._ids:
            return True
        if not self._strings or token_id in self._view.special_ids:
            return False
        self._visible.append(token_id)
        return (
            self._may_complete(self._view.token(token_id))
            and self._cut(self._view(self._visible[-self._window :])) is not None
            and self._cut(self._view(self._token_ids)) is not None
        )

    def finish(self) -> tuple[int, str] | None:
        """(tokens kept, text before the stop), or None when nothing stopped the response."""
        ids = self._token_ids
        if self._cut(self._view(ids)) is not None:
            kept = _shortest_prefix(len(ids), lambda n: self._cut(self._view(ids[:n])) is not None)
            text = self._view(ids[:kept])
            return kept, text[: self._cut(text)]
        if ids and ids[-1] in self._ids:
            return len(ids), self._view(ids)
        return None

    def _may_complete(self, text: str) -> bool:
        """False when a token of this text ends no stop string: most tokens, so decoding is rare.

        Nothing is concluded from tokens without text, from parts of characters, or about
        white space, which some tokenizers drop from a token that stands alone.
        """
        return not text or "\ufffd" in text or any(c in text or c.isspace() for c in self._last_characters)

    def _cut(self, text: str) -> int | None:
        return min((at for at in (text.find(s) for s in self._strings) if at >= 0), default=None)


def _shortest_prefix(n: int, holds: Callable[[int], bool]) -> int:
    """The start of the run of lengths, ending at n, for which `holds`; nearly always n itself."""
    while n > 1 and holds(n - 1):
        n -= 1
    return n
