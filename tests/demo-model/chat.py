"""Messages to text, by the very template that the GGUF carries."""

import json
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
TEMPLATE = (HERE / "template.jinja").read_text()


def _environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # The engine writes JSON as Python's json.dumps does; Jinja's own filter escapes for HTML.
    env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return env


_COMPILED = _environment().from_string(TEMPLATE)


def wrap(tools):
    """Tool definitions in the shape that the template lists."""
    order = ("name", "description", "parameters")
    return [{"type": "function", "function": {k: t[k] for k in order}} for t in tools]


def prompt(messages, tools=(), thinking=True):
    """The text that the model continues."""
    return _COMPILED.render(
        messages=messages,
        tools=wrap(tools),
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
