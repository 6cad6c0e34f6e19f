"""Settings: frozen structs, JSON both ways, overrides by command line, one-line errors."""

from lm.config.convert import (
    digest,
    divisors,
    dump,
    essence,
    essence_text,
    parse,
    read_json,
    validate_fields,
)
from lm.config.describe import describe
from lm.config.override import override
from lm.config.struct import Config, Count, UserError
