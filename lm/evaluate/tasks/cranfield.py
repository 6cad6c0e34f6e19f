"""Cranfield: questions on aerodynamics, and abstracts that people judged to answer them."""

from lm.evaluate.tasks.base import NamedTask
from lm.evaluate.tasks.retrieval import Retrieval

TASK = NamedTask(
    Retrieval(
        files=("retrieval/cran.qry",),
        documents=("retrieval/cran.all.1400",),
        judgements=("retrieval/cranqrel",),
        # 1 is a complete answer, 4 of minimum interest; -1, one a query, is of none. Queries
        # have other numbers in their file than in the judgements, which count them.
        grades=("1", "2", "3", "4"),
    ),
    "which of 1,400 abstracts answer a question, 225 (Cleverdon 1967)",
)
