"""A mixture of experts in the place of an MLP: a router sends each token through few of many.

Beside the letters of everywhere: E experts, K experts of a token, T tokens of a device, R rows
that its experts are given.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from msgspec import Meta

from lm.config import Config
from lm.distributed.mesh import LAYOUT, num_shards, platform_of, spec
from lm.loss import Sum
from lm.model.layers import GATED, Mlp, activate
from lm.model.ragged import block_size, ragged_product
from lm.numerics import Einsum


class Experts(Config):
    """MLPs of which a router chooses some for each token (Shazeer et al. 2017).

    What a chosen one adds is weighted by its probability among all (Fedus et al. 2022; OLMoE,
    Muennighoff et al. 2024). No expert is ever full, so that no token is dropped and none
    depends on another.
    """

    count: Annotated[int, Meta(ge=2, description="experts E, each of width mlp_width")] = 8
    active: Annotated[int, Meta(ge=1, description="experts K that a token passes through")] = 2
    balance: Annotated[
        float, Meta(ge=0, description="of the load balance loss, times in what is minimized")
    ] = 0.01
    router_z: Annotated[
        float, Meta(ge=0, description="of the router's z-loss, times in what is minimized")
    ] = 0.001


class Routing(NamedTuple):
    """What is known of the routing of a layer; of all layers, [N, ...] each."""

    balance: jax.Array
    """Of each row how unevenly it is routed, times its tokens, summed."""
    router_z: jax.Array
    """Of each token the square of the log of the sum of the exponentials of its logits."""
    load_E: jax.Array
    """How many tokens each expert was chosen for."""
    tokens: jax.Array


def mixture_of_experts(
    x_BLD: jax.Array,
    segments_BL: jax.Array,
    router_DE: jax.Array,
    up_EDF: jax.Array,
    gate_EDF: jax.Array | None,
    down_EFD: jax.Array,
    *,
    kind: Mlp,
    active: int,
    einsum: Einsum,
    mesh: jax.sharding.Mesh | None,
) -> tuple[jax.Array, Routing]:
    """The sum of a token's chosen experts, each times its probability, float32[B, L, D].

    The router is in float32. Padding is sent nowhere, gets 0 and counts in nothing. On a mesh
    each device sorts its own tokens; it has the matrices of all experts, whose width is split
    as that of MLPs is.
    """
    logits_BLE = Einsum("float32")("BLD,DE->BLE", x_BLD, router_DE)
    p_BLE = jax.nn.softmax(logits_BLE)
    weights = (up_EDF, down_EFD) if gate_EDF is None else (up_EDF, down_EFD, gate_EDF)
    apply = partial(_of_a_device, kind=kind, active=active, einsum=einsum, mesh=mesh)
    if mesh is None or mesh.size == 1 or not _divides(mesh, segments_BL):
        y_BLD, expert_BLK = apply(x_BLD, p_BLE, segments_BL, *weights)
    else:
        rows = spec(("batch", "length"))
        inward, outward = spec(("experts", "embed", "mlp")), spec(("experts", "mlp", "embed"))
        parts_WBLD, expert_BLK = jax.shard_map(
            partial(_with_whole_matrices, apply),
            mesh=mesh,
            in_specs=(rows, rows, rows, inward, outward, inward)[: 3 + len(weights)],
            out_specs=(PartitionSpec(LAYOUT["mlp"], *rows), rows),
            check_vma=False,  # loops over blocks begin with what is the same on all devices
        )(x_BLD, p_BLE, segments_BL, *weights)
        y_BLD = parts_WBLD.sum(0)
    return y_BLD, _routing(logits_BLE, p_BLE, expert_BLK, segments_BL)


def terms_of(routing: Routing, experts: Experts) -> dict[str, Sum]:
    """The further terms of a loss from the routing of all layers, and the load.

    load_balance is Switch's (Fedus et al. 2022, equation 4), of each row by itself, which no
    number of devices or microbatches cuts, weighted by its tokens: 1 where all experts have as
    much to do. router_z is that of Zoph et al. 2022 (ST-MoE, equation 5). Both are means over
    layers. load is the fraction of choices that fell on each expert, [N, E].
    """
    tokens_N = routing.tokens
    tokens = tokens_N.sum()
    return {
        "load_balance": Sum(routing.balance.sum(), tokens, experts.balance),
        "router_z": Sum(routing.router_z.sum(), tokens, experts.router_z),
        "load": Sum(routing.load_E, experts.active * tokens_N[:, None]),
    }


class _Places(NamedTuple):
    """Where tokens stand among the rows that experts are given, of an expert all in a row."""

    token_R: jax.Array
    """The token of each row; T where there is none."""
    row_TK: jax.Array
    """The row of each choice of a token; R of padding."""
    rows_E: jax.Array
    """Rows of each expert, whole blocks."""

    @classmethod
    def of(cls, expert_TK: jax.Array, experts: int, block: int) -> "_Places":
        """Of choices, where an expert that does not exist is none.

        >>> places = _Places.of(jnp.array([[1], [0], [2], [1]]), experts=2, block=2)
        >>> places.rows_E.tolist(), places.row_TK[:, 0].tolist(), places.token_R.tolist()
        ([2, 2], [2, 0, 6, 3], [1, 4, 0, 3, 4, 4])
        """
        tokens, active = expert_TK.shape
        expert_c = expert_TK.reshape(-1)
        sorted_c = jnp.argsort(expert_c)  # stable: earlier tokens come first
        place_c = jnp.zeros_like(sorted_c).at[sorted_c].set(jnp.arange(len(sorted_c)))
        chosen_E = jax.nn.one_hot(expert_c, experts, dtype=jnp.int32).sum(0)
        rows_E = -(-chosen_E // block) * block
        # What an expert's rows begin behind of, less what its choices do among all.
        shift_E = (jnp.cumsum(rows_E) - rows_E) - (jnp.cumsum(chosen_E) - chosen_E)
        rows = (len(expert_c) + experts * (block - 1)) // block * block
        row_c = place_c + shift_E.at[expert_c].get(mode="fill", fill_value=rows)
        row_c = jnp.minimum(row_c, rows)
        token_R = (
            jnp.full(rows, tokens)
            .at[row_c]
            .set(jnp.arange(len(expert_c)) // active, mode="drop")
        )
        return cls(token_R, row_c.reshape(tokens, active), rows_E)


@jax.custom_vjp
def _spread(x_TD: jax.Array, places: _Places) -> jax.Array:
    """The tokens as rows for the experts, [R, D]; 0 where there is none."""
    return x_TD.at[places.token_R].get(mode="fill", fill_value=0)


@jax.custom_vjp
def _collect(y_RD: jax.Array, places: _Places) -> jax.Array:
    """The sum of a token's rows, [T, D]."""
    return y_RD.at[places.row_TK].get(mode="fill", fill_value=0).sum(1)


# Each is the other's derivative: left to itself, JAX would add up row by row.
_spread.defvjp(
    lambda x, places: (_spread(x, places), places), lambda p, g: (_collect(g, p), None)
)
_collect.defvjp(
    lambda y, places: (_collect(y, places), places), lambda p, g: (_spread(g, p), None)
)


def _of_a_device(
    x_BLD: jax.Array,
    p_BLE: jax.Array,
    segments_BL: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    gate_EDF: jax.Array | None = None,
    *,
    kind: Mlp,
    active: int,
    einsum: Einsum,
    mesh: jax.sharding.Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """What the experts add to the tokens of a device, and which they are, int32[B, L, K]."""
    experts, width = up_EDF.shape[:2]
    weight_BLK, expert_BLK = jax.lax.top_k(p_BLE, active)
    expert_BLK = jnp.where(segments_BL[..., None] > 0, expert_BLK, experts)
    block = block_size(expert_BLK.size, experts, platform_of(mesh))
    places = _Places.of(expert_BLK.reshape(-1, active), experts, block or 1)

    def product(x_RI: jax.Array, weight_EIO: jax.Array) -> jax.Array:
        return ragged_product(einsum, block, x_RI, weight_EIO, places.rows_E)

    x_RD = _spread(x_BLD.reshape(-1, width), places)
    x_RF = product(x_RD, up_EDF)
    if gate_EDF is not None:
        x_RF = x_RF * activate(product(x_RD, gate_EDF), GATED[kind], mesh)
    else:
        x_RF = activate(x_RF, kind, mesh)  # type: ignore[arg-type] # an activation, not gated
    # Weighted before the last product: its result is then of no use to the backward pass.
    weight_R = (
        jnp.zeros(len(x_RF)).at[places.row_TK].set(weight_BLK.reshape(-1, active), mode="drop")
    )
    y_RD = product(x_RF * weight_R[:, None], down_EFD)
    return _collect(y_RD, places).reshape(x_BLD.shape), expert_BLK


def _with_whole_matrices(
    apply: Callable[..., tuple[jax.Array, jax.Array]],
    x_BLD: jax.Array,
    p_BLE: jax.Array,
    segments_BL: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    *gate_EDF: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The same on a mesh: a part of the sum over an expert's width, [1, B, L, D]."""

    def whole(weight: jax.Array, axis: int) -> jax.Array:
        for name in LAYOUT["embed"]:
            weight = jax.lax.all_gather(weight, name, axis=axis, tiled=True)
        return weight

    weights = whole(up_EDF, 1), whole(down_EFD, 2), *(whole(w, 1) for w in gate_EDF)
    y_BLD, expert_BLK = apply(x_BLD, p_BLE, segments_BL, *weights)
    return y_BLD[None], expert_BLK


def _divides(mesh: jax.sharding.Mesh, segments_BL: jax.Array) -> bool:
    """Whether rows and their positions can be split evenly, as those of a prompt may not."""
    axes = zip(("batch", "length"), segments_BL.shape, strict=True)
    return all(size % num_shards(mesh, axis) == 0 for axis, size in axes)


def _routing(
    logits_BLE: jax.Array, p_BLE: jax.Array, expert_BLK: jax.Array, segments_BL: jax.Array
) -> Routing:
    """What is to be known of a layer's routing; see `terms_of`."""
    experts, active = p_BLE.shape[-1], expert_BLK.shape[-1]
    real_BL = (segments_BL > 0).astype(jnp.float32)
    chosen_BLE = jax.nn.one_hot(expert_BLK, experts).sum(2)
    tokens_B = real_BL.sum(1)
    load_BE = chosen_BLE.sum(1)
    p_BE = (p_BLE * real_BL[..., None]).sum(1)
    # E x fraction of choices x mean probability, times tokens: of a row without any, 0.
    uneven_B = experts / active * (load_BE * p_BE).sum(1) / jnp.maximum(tokens_B, 1)
    square_BL = jnp.square(jax.nn.logsumexp(logits_BLE, axis=-1))
    return Routing(uneven_B.sum(), (square_BL * real_BL).sum(), load_BE.sum(0), tokens_B.sum())
