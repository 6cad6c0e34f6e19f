"""How a model knows where tokens stand: one value each, and what each of them computes."""

import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from lm.config import Config

# Scaling of rotary wavelengths, for rows longer than those first trained on


class Linear(Config, tag="linear"):
    """All wavelengths times a factor (Chen et al. 2023, arXiv:2306.15595)."""

    factor: Annotated[float, Meta(gt=0, description="by which wavelengths grow")]

    def scale(self, frequency_a: np.ndarray, theta: float, size: int) -> np.ndarray:
        """Frequencies, radians a position, as scaled."""
        del theta, size
        return frequency_a / self.factor

    @property
    def magnitude(self) -> float:
        """What rotated queries and keys are multiplied by."""
        return 1.0


class Llama3(Config, tag="llama3"):
    """Long wavelengths times a factor, short ones as they are (Llama 3.1)."""

    factor: Annotated[float, Meta(gt=0, description="by which long wavelengths grow")]
    low: Annotated[float, Meta(gt=0, description="turns in the length: fewer are scaled")] = 1.0
    high: Annotated[float, Meta(gt=0, description="turns in the length: more are kept")] = 4.0
    original_length: Annotated[int, Meta(ge=1, description="positions first trained on")] = 8192

    def scale(self, frequency_a: np.ndarray, theta: float, size: int) -> np.ndarray:
        """Between the two numbers of turns, a mixture that is linear in the turns."""
        del theta, size
        turns_a = self.original_length * frequency_a / (2 * math.pi)
        kept_a = np.clip((turns_a - self.low) / (self.high - self.low), 0, 1)
        return frequency_a * (kept_a + (1 - kept_a) / self.factor)

    @property
    def magnitude(self) -> float:
        return 1.0


class Yarn(Config, tag="yarn"):
    """Wavelengths scaled by parts, and attention sharpened (Peng et al. 2023, YaRN)."""

    factor: Annotated[float, Meta(gt=0, description="by which long wavelengths grow")]
    original_length: Annotated[int, Meta(ge=1, description="positions first trained on")]
    beta_fast: Annotated[float, Meta(gt=0, description="turns from which on none grows")] = 32.0
    beta_slow: Annotated[float, Meta(gt=0, description="turns below which all grow")] = 1.0
    attention_factor: (
        Annotated[float, Meta(gt=0, description="null: 0.1 ln(factor) + 1 (eq. 22)")] | None
    ) = None
    rounding: Annotated[
        Literal["whole", "none"],
        Meta(description="of where the mixture begins and ends"),
    ] = "whole"

    def scale(self, frequency_a: np.ndarray, theta: float, size: int) -> np.ndarray:
        """Between two pairs of elements, a mixture linear in their number (section 3.2)."""

        def pair(turns: float) -> float:
            inside = self.original_length / (turns * 2 * math.pi)
            return size * math.log(inside) / (2 * math.log(theta))

        first, last = pair(self.beta_fast), pair(self.beta_slow)
        if self.rounding == "whole":
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        ramp_a = (np.arange(size // 2) - first) / max(last - first, 1e-3)
        scaled_a = np.clip(ramp_a, 0, 1)
        return frequency_a * (1 - scaled_a) + frequency_a / self.factor * scaled_a

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0


Scaling = Linear | Llama3 | Yarn


# The kinds of positions


class Rotary(Config, tag="rotary"):
    """Queries and keys are turned by their positions (Su et al. 2021)."""

    theta: Annotated[float, Meta(gt=0, description="base of the wavelengths")] = 1e4
    fraction: Annotated[
        float, Meta(gt=0, le=1, description="of each head that is turned, from its first on")
    ] = 1.0
    scaling: Annotated[Scaling, Meta(description="of wavelengths, for longer rows")] | None = (
        None
    )

    def turned(self, size: int) -> int:
        """How many of a head's A elements are turned.

        >>> Rotary(fraction=0.25).turned(64)
        16
        """
        return int(self.fraction * size)

    def table(self, positions_BL: jax.Array, *, size: int, length: int) -> "RotaryTable":
        """The angles for head size A at positions below `length` (Su et al. 2021, eq. 15).

        They are looked up, as XLA would compute them anew for every head of every layer.
        """
        turned = self.turned(size)
        exponent_a = -jnp.arange(turned // 2, dtype=jnp.float32) / (turned // 2)
        frequency_a = self.theta**exponent_a
        magnitude = 1.0
        if self.scaling is not None:
            # In float64: these are constants, and long rows multiply their errors.
            plain_a = self.theta ** (-np.arange(turned // 2) / (turned // 2))
            scaled_a = self.scaling.scale(plain_a, self.theta, turned)
            frequency_a = jnp.asarray(scaled_a, jnp.float32)
            magnitude = self.scaling.magnitude
        angle_La = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency_a[None, :]
        tables = [f(angle_La) for f in (jnp.cos, jnp.sin)]
        if magnitude != 1:
            tables = [magnitude * table for table in tables]
        return RotaryTable(*(table[positions_BL][:, :, None] for table in tables))


class Learned(Config, tag="learned"):
    """A learned vector for each position is added to the token's (Gehring et al. 2017)."""

    length: Annotated[int, Meta(ge=1, description="positions that there are, at most")]
    offset: Annotated[
        int, Meta(ge=0, description="rows before the first position's (RoBERTa: 2)")
    ] = 0

    @property
    def rows(self) -> int:
        """Rows of the table.

        >>> Learned(length=512, offset=2).rows
        514
        """
        return self.length + self.offset


class Sinusoidal(Config, tag="sinusoidal"):
    """Sines and cosines are added to the token's vector (Vaswani et al. 2017)."""

    def table(self, positions_BL: jax.Array, *, width: int) -> jax.Array:
        """float32[B, L, D]: sine at even, cosine at odd elements (section 3.5).

        >>> Sinusoidal().table(jnp.array([[0]]), width=4).tolist()
        [[[0.0, 1.0, 0.0, 1.0]]]
        """
        frequency_d = jnp.asarray(1e4 ** (-np.arange(0, width, 2) / width), jnp.float32)
        angle_BLd = positions_BL[:, :, None] * frequency_d[None, None, :]
        both_BLd2 = jnp.stack([jnp.sin(angle_BLd), jnp.cos(angle_BLd)], axis=-1)
        return both_BLd2.reshape(*positions_BL.shape, -1)[:, :, :width]


class Alibi(Config, tag="alibi"):
    """Attention falls linearly with distance, each head at a slope of its own (Press et al.
    2022).
    """


class Buckets(Config, tag="buckets"):
    """A learned number for each head and range of distances is added to scores (T5)."""

    buckets: Annotated[int, Meta(ge=4, description="ranges of distance")] = 32
    distance: Annotated[int, Meta(ge=2, description="from which on all are one range")] = 128

    def number(self, ahead_BLM: jax.Array, *, two_way: bool) -> jax.Array:
        """The bucket of keys that stand so far ahead of a query, int32.

        Half of the buckets are for one distance each, the others grow as its logarithm (Raffel
        et al. 2020, section 2.1). Two ways, those before and those ahead have half of all each;
        one way, all that stand ahead count as here.

        >>> Buckets(buckets=8, distance=16).number(jnp.arange(-4, 3), two_way=True).tolist()
        [2, 2, 2, 1, 0, 5, 6]
        """
        buckets = self.buckets
        first: jax.Array | int = 0
        distance = jnp.maximum(-ahead_BLM, 0)
        if two_way:
            buckets //= 2
            first = buckets * (ahead_BLM > 0)
            distance = jnp.abs(ahead_BLM)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        far = exact + (ratio / math.log(self.distance / exact) * (buckets - exact)).astype(int)
        return first + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


class NoPositions(Config, tag="none"):
    """Nothing says where a token stands but what a causal mask leaves out."""


Positions = Rotary | Learned | Sinusoidal | Alibi | Buckets | NoPositions


class Local(Config):
    """Layers that see near keys alone, between those that see the whole segment."""

    pattern: Annotated[
        str,
        Meta(
            pattern="^[gl]+$",
            description="of layers from the first on, repeated: g global, l local",
        ),
    ] = "gll"
    reach: Annotated[
        int, Meta(ge=0, description="how far before and after itself a local query sees")
    ] = 64
    rotary: (
        Annotated[Rotary, Meta(description="of local layers; null: as of global ones")] | None
    ) = None

    def is_local(self, depth: int) -> tuple[bool, ...]:
        """Which layers are local, from the first on.

        >>> Local(pattern="gll").is_local(4)
        (False, True, True, False)
        """
        return tuple(self.pattern[n % len(self.pattern)] == "l" for n in range(depth))


class RotaryTable(NamedTuple):
    """Cosine and sine of the rotary angles, float32[B, L, 1, a], equal in every layer.

    2 a elements of each head are turned, all of them or the first ones.
    """

    cosine: jax.Array
    sine: jax.Array


def rotate(x_BLHA: jax.Array, by: RotaryTable) -> jax.Array:
    """Rotary positions on head halves (Su et al. 2021): dot products see only distances.

    >>> x = jnp.ones((1, 2, 1, 4))
    >>> table = Rotary().table(jnp.array([[0, 1]]), size=4, length=2)
    >>> rotate(x, table)[0, 0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    turned = 2 * by.cosine.shape[-1]
    left, right, rest = jnp.split(x_BLHA, [turned // 2, turned], axis=-1)
    parts = [left * by.cosine - right * by.sine, right * by.cosine + left * by.sine]
    return jnp.concatenate([*parts, rest] if rest.shape[-1] else parts, axis=-1)


def alibi_slopes(heads: int) -> np.ndarray:
    """The slope of each head, float64[H] (Press et al. 2022, section 3).

    >>> alibi_slopes(4).tolist(), alibi_slopes(3).tolist()
    ([0.25, 0.0625, 0.015625, 0.00390625], [0.0625, 0.00390625, 0.25])

    For a number of heads that is no power of two, their code takes the slopes of the power
    below and then every second one of the power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-8 / (2 * power) * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes, between[: heads - power]])
