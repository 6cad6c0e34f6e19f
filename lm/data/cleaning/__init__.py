"""Cleaning: steps that one can read, a recipe of them, and what each removed.

A new step: its file beside these, and its name in the union of recipe.py.
"""

from lm.data.cleaning.base import AcrossDocuments, Base, Verdict
from lm.data.cleaning.c4 import C4
from lm.data.cleaning.decontaminate import Decontaminate
from lm.data.cleaning.exact import ExactCopies
from lm.data.cleaning.gopher import GopherQuality, GopherRepetition
from lm.data.cleaning.language import Language
from lm.data.cleaning.named import NamedCorpus
from lm.data.cleaning.near import Near
from lm.data.cleaning.pii import Pii
from lm.data.cleaning.pipeline import clean, clean_to_bucket
from lm.data.cleaning.recipe import Cleaning
from lm.data.cleaning.tally import MANIFEST, Manifest, read_manifest
