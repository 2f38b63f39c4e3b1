"""A model server in an engine's place: it has the weights, we have the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlpost.benchmarking.options import EvalOptions
from rlpost.config.schema import ModelConfig
from rlpost.evaluation import SamplerSource
from rlpost.models import load_tokenizer
from rlpost.rollout.endpoint_engine import EndpointEngine
from rlpost.rollout.engine import SampleRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY_VARIABLE = "OPENAI_API_KEY"


@contextmanager
def endpoint_engine(model: str, options: EvalOptions) -> Iterator[EndpointEngine]:
    """The server that the options name; the connection ends with the context.

    Raises:
        UserError: nothing answers there, or it does not have the model.
    """
    assert options.endpoint is not None
    engine = EndpointEngine(
        options.endpoint,
        # Without --chat, MODEL is where the tokenizer lies, and the server may call it otherwise.
        options.endpoint_model or (model if options.chat else None),
        key_variable=options.api_key_variable or KEY_VARIABLE,
        chat=options.chat,
        concurrency=options.concurrency,
    )
    try:
        yield engine
    finally:
        engine.close()


class ChatSource(SamplerSource):
    """Sends the text of each prompt as a message; its token ids are the server's business."""

    def submit(self, groups: Sequence[Sequence[SampleRequest]]) -> None:
        super().submit([[replace(r, prompt_token_ids=()) for r in group] for group in groups])


def text_tokenizer() -> PreTrainedTokenizerBase:
    """For prompts whose token ids nobody reads: any text is one, and no template is applied."""
    tokenizer = load_tokenizer(ModelConfig(init="tiny"))
    tokenizer.chat_template = None
    return tokenizer


def server_record(engine: EndpointEngine, options: EvalOptions) -> dict[str, Any]:
    """Which server answered, for the manifest."""
    route = "chat/completions" if options.chat else "completions"
    return {"url": engine.url, "model": engine.model, "kind": engine.server, "route": route}
