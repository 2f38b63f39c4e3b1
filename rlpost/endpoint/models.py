"""The models that a server has, and the one that is meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.endpoint.settings import EndpointSettings
from rlpost.errors import UserError

SHOWN = 20


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server lists it.

    Attributes:
        name: what requests call it.
        server: who serves it, by the server's own word: "vllm", "sglang", "llamacpp", "openai" and others.
        positions: tokens that prompt and response may have together; None where the server does not say.
    """

    name: str
    server: str
    positions: int | None


def read_models(value: Any) -> list[ServedModel]:
    """All models of a server's list.

    Raises:
        ValueError: the JSON is no such list.
    """
    entries = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError(f"no list of models but {value!r:.200}")
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
            raise ValueError(f"a model without an id: {entry!r:.200}")
        positions = entry.get("max_model_len")
        positions = positions if type(positions) is int else None
        found.append(ServedModel(entry["id"], str(entry.get("owned_by") or ""), positions))
    return found


def choose_model(models: Sequence[ServedModel], settings: EndpointSettings) -> ServedModel:
    """The model of that name, or the only one.

    Raises:
        UserError: the server has no model, not this one, or several and none was named.
    """
    names = [model.name for model in models]
    if not models:
        raise UserError("the server has no model", where=settings.address)
    if settings.model is None:
        if len(models) == 1:
            return models[0]
        raise UserError(
            "the server has several models, and none was named", where=settings.address, found=_shown(names)
        )
    for model in models:
        if model.name == settings.model:
            return model
    near = difflib.get_close_matches(settings.model, names, n=1)
    raise UserError(
        f"the server has no model {settings.model!r}",
        where=settings.address,
        found=_shown(names),
        remedy=f"did you mean {near[0]!r}?" if near else "name one of these",
    )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
