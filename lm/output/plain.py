"""Values as JSON."""

import json
import math
from typing import Any

import msgspec


def to_json(value: Any) -> str:
    """A record, or a dict of them, as JSON that people can read; null for what is no number.

    >>> print(to_json({"bits_per_byte": 2.0, "text_se": math.nan}))
    {
      "bits_per_byte": 2.0,
      "text_se": null
    }
    """
    return json.dumps(finite(msgspec.to_builtins(value)), indent=2)


def finite(value: Any) -> Any:
    """The value as JSON can say it: null for what is no number."""
    match value:
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value
