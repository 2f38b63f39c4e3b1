"""From checked prompts to token ids: chat template, system prompt, instruction, EOS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlpost.config.schema import DataConfig
from rlpost.data.conversation import Conversation, unsampled
from rlpost.data.problems import RowError
from rlpost.data.rendering import Message, TemplateRefusal
from rlpost.data.tool_calls import ToolSchema
from rlpost.data.trajectory import Turn
from rlpost.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptEncoder:
    """Tokenises each prompt, and each demonstration, exactly once.

    Attributes:
        tokenizer: of the policy.
        conversation: applies the chat template, with the generation prompt at the end. None: text is
            tokenised as the model's authors do with raw text: a BOS that the tokenizer puts in front
            stays (unless the text already begins with one), an EOS that it appends does not.
        system_prompt: the first message, in front of text and messages alike.
        instruction: appended to text prompts after a blank line.
    """

    tokenizer: PreTrainedTokenizerBase
    conversation: Conversation | None
    system_prompt: str | None = None
    instruction: str | None = None

    @classmethod
    def of(
        cls,
        config: DataConfig,
        tokenizer: PreTrainedTokenizerBase,
        conversation: Conversation | None = None,
    ) -> PromptEncoder:
        """The encoder that `config.template` asks for.

        Args:
            conversation: an environment's, whose tools the template tells of; None without one.

        Raises:
            ConfigError: a chat template is wanted and the tokenizer has none, or a system prompt is set
                or an environment given and no chat template is applied.
        """
        has_template = bool(tokenizer.chat_template)
        if config.template == "chat" and not has_template:
            raise ConfigError(
                "the tokenizer has no chat template",
                where="data.template = chat",
                remedy="use the instruction-tuned model's tokenizer, or set data.template to none",
            )
        chat = has_template and config.template != "none"
        if conversation is not None and not chat:
            raise ConfigError(
                "an environment answers chat messages, and needs a chat template",
                where=f"data.template = {config.template}",
                remedy="remove data.template, or remove the environment",
            )
        if config.system_prompt is not None and not chat:
            raise ConfigError(
                "a system prompt needs a chat template",
                where="data.system_prompt",
                found=f"data.template = {config.template}"
                + ("" if has_template else ", and the tokenizer has no chat template"),
                remedy="remove data.system_prompt, or apply a chat template",
            )
        if chat and conversation is None:
            # Nothing is sampled turn by turn here, and a dialogue is learnt as the data has it.
            conversation = Conversation(tokenizer, history="as_sampled")
        return cls(tokenizer, conversation, config.system_prompt, config.instruction)

    def told_of(self, tools: Sequence[ToolSchema]) -> PromptEncoder:
        """The same, for a row that brings tools of its own."""
        return replace(self, conversation=Conversation(self.tokenizer, tools=tools, history="as_sampled"))

    def messages(self, prompt: str | Sequence[Message]) -> tuple[Message, ...]:
        """A prompt as the messages that the template is applied to; () without a template."""
        if self.conversation is None:
            return ()
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": self.instructed(prompt)}]
        system = () if self.system_prompt is None else ({"role": "system", "content": self.system_prompt},)
        return (*system, *prompt)

    def encode(self, prompt: str | Sequence[Message]) -> tuple[int, ...]:
        """The token ids that the model reads for a prompt.

        Raises:
            RowError: the chat template refuses the messages, or no token comes out.
        """
        if self.conversation is None:
            ids = self._text_ids(self.instructed(str(prompt)))
        else:
            try:
                ids = self.conversation.opening(self.messages(prompt))
            except TemplateRefusal as refusal:
                raise _refused(refusal) from refusal
        if not ids:
            raise RowError("empty", "the prompt has no token")
        return ids

    def encode_prefill(self, prefill: str) -> tuple[int, ...]:
        """The token ids of how a response begins, behind those of its prompt."""
        return tuple(self.tokenizer(prefill, add_special_tokens=False)["input_ids"]) if prefill else ()

    def encode_demonstration(self, demonstration: str | Sequence[Message]) -> tuple[Turn, ...]:
        """A demonstrated response as turns, the assistant's ending in exactly the EOS that samples end in.

        Args:
            demonstration: text, which is a single turn, or the messages of a dialogue after the prompt.

        Raises:
            RowError: the chat template refuses the messages, or a tool call cannot be written.
        """
        if isinstance(demonstration, str):
            ids = self.tokenizer(demonstration, add_special_tokens=False)["input_ids"]
            eos = self.tokenizer.eos_token_id
            ids = ids if ids and ids[-1] == eos else [*ids, eos]
            return (unsampled(ids, demonstration, by_policy=True),)
        if self.conversation is None:
            raise RowError("messages", "a demonstration of several messages needs a chat template")
        try:
            return self.conversation.demonstration(demonstration)
        except TemplateRefusal as refusal:
            raise _refused(refusal) from refusal
        except ValueError as error:
            raise RowError("messages", f"the demonstration cannot be written: {error}") from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text view of token ids, special tokens included."""
        return self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)

    def instructed(self, text: str) -> str:
        """A text prompt with the instruction behind it."""
        return text if self.instruction is None else f"{text}\n\n{self.instruction}"

    def _text_ids(self, text: str) -> tuple[int, ...]:
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        ids = self.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
        appended = ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(eos)
        return tuple(ids[:-1] if appended else ids)


def _refused(refusal: TemplateRefusal) -> RowError:
    return RowError("messages", f"the chat template refuses the messages: {refusal.reason}")
