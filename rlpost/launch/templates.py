"""The templates in `launch/`, filled in."""

from __future__ import annotations

import shlex
from pathlib import Path

import jinja2

FOLDER = Path(__file__).parent / "templates"


def render(name: str, **values: object) -> str:
    """The template `name` with `values`; a name that it uses and nobody gives is an error.

    Templates write `{{ text | quoted }}` where a shell reads, and `{{ value | yaml }}` where YAML is read.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"quoted": lambda value: shlex.quote(str(value)), "yaml": _as_yaml}
    return environment.get_template(name).render(**values)


def _as_yaml(value: object) -> str:
    """One line of YAML in flow style; JSON is that."""
    import json

    return json.dumps(value)
