"""How parameters move: the optimizers, their schedules, and the optax transformation of both.

`build` needs to know what each parameter is. It is told so by the axes that the parameter was
declared with - `("layers", "embed", "mlp")` - and never guesses from the number of dimensions,
because layers are stacked: a stack of norm scales has two dimensions and is not a matrix.

The best learning rate falls as models get wider. With `base_width`, the width at which the rate
was tuned, it need not be tuned again: what training changes in activations and logits is the
same at every width (maximal update parametrization, Yang et al. 2022, arXiv:2203.03466, table 8
with tied embeddings; for muon the spectral condition, Yang, Simon & Bernstein 2023,
arXiv:2310.17813). For a model r times as wide as the base,

    matrices of layers      steps / r (adamw, lion: every entry of a step has one size, and r
                            times as many inputs add up), / sqrt(r) (muon)
    the last norm           value, gradient and steps / r: the same as if the logits were
                            multiplied by 1 / r, as they are sums over r times as many states
    embeddings, other norms as they are
    eps of adam             / r, as all gradients are

Initial values of matrices of layers fall as 1 / sqrt(inputs) at any rate (lm/model). Decay is
not scaled: a weight loses the same fraction per step at every width (Wang & Aitchison 2024,
arXiv:2405.13698). All this holds between models of one depth and head size, whose heads and MLP
grow with the width, and which train on equal batches for as long.

A new optimizer: a file here with a `Base`, and a line in the union below.
"""

from lm.optimizer.adafactor import Adafactor
from lm.optimizer.adamw import Adamw
from lm.optimizer.axes import is_weight
from lm.optimizer.base import Base
from lm.optimizer.build import build, initial, only_trained, state_axes, trainable
from lm.optimizer.lion import Lion
from lm.optimizer.lora import LORA, Lora
from lm.optimizer.muon import Muon
from lm.optimizer.schedule import (
    Cosine,
    Schedule,
    Slopes,
    WarmupStableDecay,
    check,
    decay_steps,
    learning_rate,
    warmup_steps,
)

Optimizer = Adamw | Lion | Adafactor | Muon

__all__ = [
    "LORA",
    "Adafactor",
    "Adamw",
    "Base",
    "Cosine",
    "Lion",
    "Lora",
    "Muon",
    "Optimizer",
    "Schedule",
    "Slopes",
    "WarmupStableDecay",
    "build",
    "check",
    "decay_steps",
    "initial",
    "is_weight",
    "learning_rate",
    "only_trained",
    "state_axes",
    "trainable",
    "warmup_steps",
]
