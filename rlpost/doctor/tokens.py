"""`rlpost check`: tokenizer and chat template, against the model's embedding and against each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlpost.config.held_out import held_out_sets
from rlpost.config.schema import RunConfig
from rlpost.data.rendering import ChatTemplate, TemplateRefusal
from rlpost.preflight import ERROR, OK, WARNING, Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = {"role": "user", "content": "What is 1+2?"}
ANSWER = "TheProbesAnswer"
SHOWN = 40


def token_findings(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, rows: int | None
) -> Iterator[Finding]:
    """Whether the model has a row for every token that it may read, and the template fits the tokenizer.

    Args:
        rows: of the model's embedding; None where they are not known.
    """
    yield _vocabulary(config.model.init, tokenizer, rows)
    if wants_template(config) or (tokenizer.chat_template and may_have_template(config)):
        yield _template(tokenizer, rows)


def wants_template(config: RunConfig) -> bool:
    """Whether some data insists on a chat template."""
    return any(template == "chat" for template in _templates(config))


def may_have_template(config: RunConfig) -> bool:
    """Whether some data takes one where there is one."""
    return any(template != "none" for template in _templates(config))


def _templates(config: RunConfig) -> list[str]:
    return [stage.data.template for stage in config.stages] + [
        data.template for data in held_out_sets(config).values()
    ]


def _vocabulary(init: str, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> Finding:
    known = tokenizer.get_vocab()
    found = f"{init}: {len(known):,} tokens"
    if rows is None:
        return Finding("tokenizer", OK, found)
    beyond = {token: index for token, index in known.items() if index >= rows}
    found += f", {rows:,} rows in the embedding"
    if not beyond:
        return Finding("tokenizer", OK, found)
    written = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token)
    plain = beyond.keys() - set(tokenizer.all_special_tokens)
    token = next((t for t in (*written, *sorted(plain)) if t in beyond), min(beyond))
    what = f"{token!r} has the id {beyond[token]}, for which there is none"
    if len(beyond) > 1:
        what += f" ({len(beyond)} such tokens)"
    if token not in written and not plain:
        # Published models have such tokens, for images and the like; no text becomes one of them.
        return Finding("tokenizer", OK, found, notes=(what,))
    remedy = "use the tokenizer that the model was saved with, or resize the embedding and save both"
    return Finding("tokenizer", ERROR if token in written else WARNING, f"{found}: {what}", remedy)


def _template(tokenizer: PreTrainedTokenizerBase, rows: int | None) -> Finding:
    """It renders, opens the assistant's turn, ends it with the EOS, and writes only tokens that there are."""
    name, remedy = "chat template", "correct chat_template in the model's files, or set data.template to none"
    if not tokenizer.chat_template:
        other = "use the instruction-tuned model's tokenizer, or set data.template to none"
        return Finding(name, ERROR, "data.template is chat, and the tokenizer has none", other)
    template = ChatTemplate(tokenizer)
    try:
        asked = template.render([QUESTION], generation_prompt=False)
        opened = template.render([QUESTION], generation_prompt=True)
        said = template.render([QUESTION, {"role": "assistant", "content": ANSWER}], generation_prompt=False)
    except TemplateRefusal as refusal:
        return Finding(name, ERROR, f"it refuses a question and its answer: {refusal.reason}", remedy)
    high = [index for index in template.encode(opened + said) if rows is not None and index >= rows]
    if high:
        token = tokenizer.decode([high[0]])
        found = f"it writes {token!r} with the id {high[0]}; the embedding has {rows} rows"
        return Finding(name, ERROR, found, "use the tokenizer that the model was saved with")
    if ANSWER not in said:
        return Finding(name, ERROR, "it leaves out what the assistant said", remedy)
    if QUESTION["content"] not in opened:
        return Finding(name, ERROR, "it leaves out what the user said", remedy)
    if opened == asked:
        found = "it does not open the assistant's turn: add_generation_prompt changes nothing"
        return Finding(name, WARNING, found, remedy)
    end = said.partition(ANSWER)[2]
    if not end.startswith(tokenizer.eos_token):
        eos = tokenizer.eos_token
        found = f"it ends the assistant's turn with {end[:SHOWN]!r}, but sampling ends at {eos!r}"
        remedy = "set eos_token in tokenizer_config.json to what the template writes there"
        return Finding(name, WARNING, found, f"{remedy}, or data.template to none")
    return Finding(name, OK, f"it ends the assistant's turn with {tokenizer.eos_token!r}")
