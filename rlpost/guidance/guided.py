"""Guided prompts: a problem with the beginning of a solution, and what the model is to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlpost.config.schema import DataConfig, GuidanceConfig
from rlpost.data import Prompt, PromptSet
from rlpost.data.messages import check_tools
from rlpost.data.problems import RowError
from rlpost.data.templates import PromptEncoder
from rlpost.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GUIDED = "+guided"
"""Ends the id of a guided prompt, so that its group is never that of the problem as it is."""

Asked = str | tuple[Mapping[str, Any], ...]
"""What a prompt asks: text, or chat messages where there is a chat template; system prompt and instruction
of `data` included."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with its solution.

    Attributes:
        prompt: as the policy is asked without guidance.
        asked: the same before the chat template.
        solution: text.
    """

    prompt: Prompt
    asked: Asked
    solution: str

    @property
    def id(self) -> str:
        return self.prompt.id


def problems_of(
    prompts: PromptSet, data: DataConfig, encoder: PromptEncoder
) -> tuple[list[Problem], dict[str, str]]:
    """The prompts that have a solution, and of each other one why it has none, by id.

    A solution is a text, or a single message of the assistant.

    Args:
        encoder: as `data` says.
    """
    found, without = [], {}
    for prompt in prompts:
        solution, why = _solution(prompt.columns.get(str(data.demonstration_column)))
        if solution:
            asked = prompt.messages or encoder.instructed(str(prompt.columns[data.prompt_column]))
            found.append(Problem(prompt, asked, solution))
        else:
            without[prompt.id] = why
    return found, without


@dataclass(frozen=True)
class Guide:
    """Writes guided prompts as `settings` say.

    Attributes:
        encoder: tokenises what a row asks, as the stage's training will.
        tools_column: of the problems.
    """

    settings: GuidanceConfig
    encoder: PromptEncoder
    tools_column: str | None

    @classmethod
    def of(cls, settings: GuidanceConfig, data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Guide:
        """For problems that are read as `data` says."""
        plain = data.model_copy(update={"system_prompt": None, "instruction": None})
        return cls(settings, PromptEncoder.of(plain, tokenizer), data.tools_column)

    def check(self, problems: Sequence[Problem]) -> None:
        """Make sure that the chat template shows the model what it is told, before anything is sampled.

        Raises:
            ConfigError: it refuses the messages, or leaves some of them out.
        """
        kinds = {
            p.asked if isinstance(p.asked, str) else tuple(message["role"] for message in p.asked): p
            for p in reversed(problems)
        }
        for problem in kinds.values() if self.encoder.conversation is not None else problems[:1]:
            self._check(problem)

    def _check(self, problem: Problem) -> None:
        mode, told = self.settings.mode, [self.settings.instruction, self.settings.heading]
        needed = "a chat template that shows system messages"
        remedy = "set guidance.mode=user, which needs no system message"
        try:
            shown = self.prompt(problem, "x", problem.id).text
        except RowError as refusal:
            raise ConfigError(
                "the chat template refuses a guided prompt",
                where=f"guidance.mode = {mode}",
                found=refusal,
                needed=needed,
                remedy=remedy if mode == "system" else None,
            ) from refusal
        missing = [text for text in told if text.strip() not in shown]
        if mode != "assistant" and missing:
            raise ConfigError(
                "the chat template does not show the model all of a guided prompt",
                where=f"guidance.mode = {mode}",
                found=f"{missing[0]!r} is not in {shown!r}",
                needed=needed,
                remedy=remedy if mode == "system" else None,
            )

    def prompt(self, problem: Problem, beginning: str, id: str) -> Prompt:
        """The guided prompt, tokenised.

        Raises:
            RowError: the chat template refuses the messages.
        """
        asked, prefill = self.ask(problem, beginning)
        encoder = self.encoder
        if self.tools_column is not None:
            tools = check_tools(problem.prompt.columns[self.tools_column], self.tools_column)
            encoder = encoder.told_of(tools) if tools else encoder
        ids = encoder.encode(asked) + encoder.encode_prefill(prefill)
        return Prompt(
            id=id,
            text=encoder.decode(ids),
            token_ids=ids,
            columns=problem.prompt.columns,
            place=problem.prompt.place,
            messages=encoder.messages(asked),
            prefill=prefill,
        )

    def ask(self, problem: Problem, beginning: str) -> tuple[Asked, str]:
        """What the guided prompt asks, and how the response begins."""
        settings, asked = self.settings, problem.asked
        if settings.mode == "assistant":
            return asked, beginning
        shown = f"{settings.heading}\n{beginning}"
        if isinstance(asked, str):
            return f"{settings.instruction}\n\n{asked}\n\n{shown}", ""
        messages = _with_beginning(asked, shown)
        if settings.mode == "system":
            return _with_system(messages, settings.instruction), ""
        last = {**messages[-1], "content": f"{settings.instruction}\n\n{messages[-1]['content']}"}
        return (*messages[:-1], last), ""


def _with_beginning(messages: Sequence[Mapping[str, Any]], shown: str) -> tuple[Mapping[str, Any], ...]:
    """The beginning behind the user's last message, or in one of its own behind a tool's."""
    last = messages[-1]
    if last["role"] != "user":
        return (*messages, {"role": "user", "content": shown})
    return (*messages[:-1], {**last, "content": f"{last['content']}\n\n{shown}"})


def _with_system(messages: Sequence[Mapping[str, Any]], instruction: str) -> tuple[Mapping[str, Any], ...]:
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return ({"role": "system", "content": instruction}, *messages)
    return ({**first, "content": f"{first['content']}\n\n{instruction}"}, *messages[1:])


def _solution(value: object) -> tuple[str, str]:
    """The text of a solution; without one, "" and why."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content") if value[0].get("role") == "assistant" else value
    if value is None:
        return "", "missing"
    if not isinstance(value, str):
        return "", "no text"
    return value.strip(), "empty"
