"""What is masked and what must be predicted. A new objective: one file, one line in plain.py.

An objective is a frozen value. Called with `(batch, vocabulary, key, progress)`
it returns the `Example` to train on, on device, inside the jitted step;
`target_count(length)` is its P. `lm prove` shows that no logit of it depends on what it must
not see.
"""

from lm.objectives.any_order import AnyOrder
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal
from lm.objectives.classify import Classify
from lm.objectives.contrastive import Contrastive
from lm.objectives.curriculum import Curriculum
from lm.objectives.diffusion import Diffusion
from lm.objectives.distil import Distil
from lm.objectives.masked import Drawn, Masked, Scheduled
from lm.objectives.mixture import Mixture, Part
from lm.objectives.plain import Plain
from lm.objectives.policy_gradient import PolicyGradient
from lm.objectives.preference import Dpo, Ipo, Orpo, Preference
from lm.objectives.prefix import Prefix
from lm.objectives.reconstruct import Reconstruct
from lm.objectives.regress import Regress
from lm.objectives.response import Response
from lm.objectives.reward import Reward
from lm.objectives.shifted import Shifted
from lm.objectives.spans import Spans
from lm.objectives.states import StatesOnly
from lm.objectives.tag import Tag

Objective = (
    Plain
    | Mixture
    | Curriculum
    | Distil
    | Classify
    | Regress
    | Tag
    | Response
    | Preference
    | Reward
    | PolicyGradient
    | Reconstruct
    | Contrastive
    | StatesOnly
)

__all__ = [
    "AnyOrder",
    "Base",
    "Causal",
    "Classify",
    "Contrastive",
    "Curriculum",
    "Diffusion",
    "Distil",
    "Dpo",
    "Drawn",
    "Ipo",
    "Masked",
    "Mixture",
    "Objective",
    "Orpo",
    "Part",
    "Plain",
    "PolicyGradient",
    "Prediction",
    "Preference",
    "Prefix",
    "Reconstruct",
    "Regress",
    "Response",
    "Reward",
    "Scheduled",
    "Shifted",
    "Spans",
    "StatesOnly",
    "Tag",
]
