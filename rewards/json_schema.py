"""JSON schema: the response is one JSON value that conforms to a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)```", re.DOTALL)


def reward(completion: str, schema: Mapping[str, Any] | str, after: str | None = None) -> dict[str, Any]:
    """1.0 when the response conforms to the schema, otherwise 0.0; unparseable when it is no JSON.

    The response is the value alone, or one fenced block that holds it, with or without text around the
    block. A key that comes twice, NaN and Infinity are no JSON. Needs the package jsonschema.

    Args:
        completion: the model's response.
        schema: a JSON schema, as an object or as its text; without `$schema`, of draft 2020-12. `format` is
            checked where jsonschema can do it alone. It refers to nothing outside of itself.
        after: look only at what follows the last occurrence of this marker, such as "</think>".

    >>> reward('{"age": 7}', {"type": "object", "properties": {"age": {"type": "integer"}}})["score"]
    1.0
    """
    check = validator(schema if isinstance(schema, str) else json.dumps(schema))
    if after is not None:
        _, marker, completion = completion.rpartition(after)
        if not marker:
            return {"score": 0.0, "outcome": "unparseable", "note": f"no {after!r} in the response"}
    fenced = FENCED.findall(completion)
    if len(fenced) > 1:
        return {"score": 0.0, "outcome": "unparseable", "note": f"{len(fenced)} fenced blocks"}
    try:
        value = parse(fenced[0] if fenced else completion)
        problem = next(iter(check.iter_errors(value)), None)
    except ValueError as error:
        return {"score": 0.0, "outcome": "unparseable", "note": f"no JSON: {error}"}
    except RecursionError:
        return {"score": 0.0, "outcome": "unparseable", "note": "nested too deeply"}
    if problem is None:
        return {"score": 1.0}
    return {"score": 0.0, "note": f"{problem.json_path}: {problem.message}"}


def parse(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none.
    """
    return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=distinct)


def refuse_constant(name: str) -> None:
    """Python's parser would take NaN and Infinity."""
    raise ValueError(f"{name} is no JSON")


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; Python's parser would silently keep the last of two equal keys."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {max(keys, key=keys.count)!r} comes twice")
    return dict(pairs)


@lru_cache(maxsize=256)
def validator(schema: str) -> Any:
    """What checks values against the schema.

    Raises:
        ValueError: the schema is none.
    """
    import jsonschema
    from referencing import Registry

    value = json.loads(schema)
    kind = jsonschema.validators.validator_for(value, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(value)
    except jsonschema.SchemaError as error:
        raise ValueError(f"the schema is invalid at {error.json_path}: {error.message}") from error
    # With a registry of its own it fetches no reference from the network.
    return kind(value, registry=Registry(), format_checker=kind.FORMAT_CHECKER)


def warm_up() -> None:
    """Pay for imports once per process, before the first deadline runs."""
    validator("{}")


def selfcheck() -> list[tuple[dict[str, Any], float]]:
    """Cases: arguments and the score that they must get."""
    person = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    right = [
        '{"name": "Ada", "age": 36}',
        ' {"age": 0, "name": ""}\n',
        '```json\n{"name": "Ada", "age": 36}\n```',
        'Here it is:\n```\n{"name": "Ada",\n "age": 36}\n```\nDone.',
    ]
    wrong = [
        '{"name": "Ada"}',
        '{"name": "Ada", "age": "36"}',
        '{"name": "Ada", "age": 36.5}',
        '{"name": "Ada", "age": -1}',
        '{"name": "Ada", "age": 36, "born": 1815}',
        '{"name": "Ada", "age": 36, "age": 37}',
        '{"name": "Ada", "age": NaN}',
        "{'name': 'Ada', 'age': 36}",
        '{"name": "Ada", "age": 36,}',
        '[{"name": "Ada", "age": 36}]',
        'It is {"name": "Ada", "age": 36}',
        '```json\n{"name": "Ada", "age": 36}\n```\n```json\n{"name": "Bob", "age": 1}\n```',
        "null",
        "",
    ]
    return [
        *(({"completion": text, "schema": person}, 1.0) for text in right),
        *(({"completion": text, "schema": json.dumps(person)}, 0.0) for text in wrong),
        ({"completion": "<think>7</think> 8", "schema": {"const": 8}, "after": "</think>"}, 1.0),
        ({"completion": "8", "schema": {"const": 8}, "after": "</think>"}, 0.0),
        ({"completion": '"2024-02-30"', "schema": {"type": "string", "format": "date"}}, 0.0),
    ]
