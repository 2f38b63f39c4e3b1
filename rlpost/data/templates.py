"""From checked prompts to token ids: chat template, system prompt, instruction, EOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlpost.config.schema import DataConfig
from rlpost.data.problems import RowError
from rlpost.data.schema import Message
from rlpost.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptEncoder:
    """Tokenises each prompt exactly once.

    Attributes:
        tokenizer: of the policy.
        chat: apply its chat template, with the generation prompt at the end. Without it, text
            is tokenised as the model's authors do with raw text: a BOS that the tokenizer puts in
            front stays (unless the text already begins with one), an EOS that it appends does not.
        system_prompt: the first message, in front of text and messages alike.
        instruction: appended to text prompts after a blank line.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: bool
    system_prompt: str | None = None
    instruction: str | None = None

    @classmethod
    def of(cls, config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
        """The encoder that `config.template` asks for.

        Raises:
            ConfigError: a chat template is wanted and the tokenizer has none, or a system
                prompt is set and no chat template is applied.
        """
        has_template = bool(tokenizer.chat_template)
        if config.template == "chat" and not has_template:
            raise ConfigError(
                "the tokenizer has no chat template",
                where="data.template = chat",
                remedy="use the instruction-tuned model's tokenizer, or set data.template to none",
            )
        chat = has_template and config.template != "none"
        if config.system_prompt is not None and not chat:
            raise ConfigError(
                "a system prompt needs a chat template",
                where="data.system_prompt",
                found=f"data.template = {config.template}"
                + ("" if has_template else ", and the tokenizer has no chat template"),
                remedy="remove data.system_prompt, or apply a chat template",
            )
        return cls(tokenizer, chat, config.system_prompt, config.instruction)

    def encode(self, prompt: str | Sequence[Message]) -> tuple[int, ...]:
        """The token ids that the model reads for a prompt.

        Raises:
            RowError: the chat template refuses the messages, or no token comes out.
        """
        if isinstance(prompt, str) and self.instruction is not None:
            prompt = f"{prompt}\n\n{self.instruction}"
        ids = self._chat_ids(prompt) if self.chat else self._text_ids(str(prompt))
        if not ids:
            raise RowError("empty", "the prompt has no token")
        return tuple(ids)

    def encode_demonstration(self, text: str) -> tuple[int, ...]:
        """The token ids of a demonstrated response, ending in exactly the EOS that samples end in."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        eos = self.tokenizer.eos_token_id
        return tuple(ids) if ids and ids[-1] == eos else (*ids, eos)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text view of token ids, special tokens included."""
        return self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)

    def _chat_ids(self, prompt: str | Sequence[Message]) -> list[int]:
        from jinja2 import TemplateError

        messages: list[Any] = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        )
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        try:
            return self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise RowError("messages", f"the chat template refuses the messages: {error}") from error

    def _text_ids(self, text: str) -> list[int]:
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        ids = self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
        appended = ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(eos)
        return ids[:-1] if appended else ids
