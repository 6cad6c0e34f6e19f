"""Where documents come from. A new source: its file beside these, and its name in the union."""

from lm.data.sources.base import (
    DOCUMENT,
    LOSS,
    SIDE,
    TURN,
    Base,
    Channel,
    Conversation,
    Damaged,
    Document,
    Empty,
    Stretch,
)
from lm.data.sources.chat import CHOICE, Chat
from lm.data.sources.digits import Digits
from lm.data.sources.hmm import Hmm
from lm.data.sources.hugging_face import HuggingFaceData
from lm.data.sources.jsonl import Jsonl
from lm.data.sources.neighbours import NeighbourPairs
from lm.data.sources.parquet import Parquet
from lm.data.sources.rules import RuleLists
from lm.data.sources.shards import Shards
from lm.data.sources.stdlib import Stdlib
from lm.data.sources.table import Tabular
from lm.data.sources.text import Text
from lm.data.sources.tfds import Tfds
from lm.data.sources.tokens import TokenFiles

_Few = Stdlib | Text | Jsonl | Chat | Tabular | NeighbourPairs | Tfds | Hmm | RuleLists | Digits
Corpus = _Few | Shards | Parquet | HuggingFaceData | TokenFiles
