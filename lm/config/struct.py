"""Settings are frozen structs; what is wrong with them is one line."""

from collections.abc import Mapping
from typing import Annotated, Any, dataclass_transform

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
"""A whole number from 1 on, for settings that may also be null."""


class UserError(Exception):
    """What the user can mend: one line that says what, where, and the nearest legal values.

    Commands print it without a traceback and exit with code 2.
    """


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every settings struct. Fields are `Annotated[type, Meta(description=...)]`.

    Variants are structs with a tag, and a setting that has variants is a union of them. In JSON
    and on the command line the tag is called `type`.
    """

    @classmethod
    def named(cls) -> Mapping[str, "Config"]:
        """Values with a name of their own, which may stand in place of their fields."""
        return {}

    @classmethod
    def of_before(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields as they are called now, of what earlier versions wrote into files."""
        return fields
