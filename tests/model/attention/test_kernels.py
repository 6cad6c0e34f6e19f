"""Kernels of attention against the reference, as far as a machine without them can tell."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

from experiments.benchmarks.device.checks import MASKS, TOLERANCES, deviations
from lm.config import UserError
from lm.cost import ledger
from lm.data import Data
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.example import BidirectionalMask, CausalMask, UntilMask
from lm.model import Transformer
from lm.model.attention import (
    KERNELS,
    attend_in_blocks,
    choose,
    pairs,
    refusal,
)
from lm.numerics import Einsum
from lm.objectives import Masked
from lm.run import Run, refuse_attention, validate

MESHES = {"one": {"fsdp": 1}, "eight": {"fsdp": 2, "tensor": 2, "context": 2}}


def agree(backend, kind, *, precision="float32", groups=2, size=32, devices="one"):
    """Holds a backend's values and gradients against the reference's, where somebody looks."""
    many = mesh.make(Mesh(**MESHES[devices]), jax.devices()[: 8 if devices == "eight" else 1])
    found = deviations(backend, kind, mesh=many, precision=precision, groups=groups, size=size)
    assert max(found.values()) <= TOLERANCES[precision], found


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("backend", "kind", "devices", "precision"),
    [
        pytest.param("splash", "causal", "one", "bfloat16", marks=pytest.mark.slow),
        ("splash", "causal", "eight", "float32"),
        ("splash", "until", "one", "float32"),
        pytest.param("splash", "full", "one", "float32", marks=pytest.mark.slow),
        ("cudnn", "causal", "one", "float32"),
        ("cudnn", "until", "eight", "bfloat16"),
        pytest.param("cudnn", "full", "one", "float32", marks=pytest.mark.slow),
        ("triton", "causal", "one", "float32"),
        pytest.param("triton", "full", "one", "bfloat16", marks=pytest.mark.slow),
        pytest.param("triton", "until", "eight", "float32", marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_are_the_references(backend, kind, devices, precision):
    """Fails if a mask is off by one or counts from a shard's start, heads are grouped
    otherwise, padding is seen, or a query that sees nothing spoils what others learn."""
    agree(backend, kind, precision=precision, devices=devices)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MASKS)
def test_splash_takes_heads_whose_elements_lie_along_lanes(kind):
    """Fails if heads of one layout are computed, and those of the other are not."""
    agree("splash", kind, size=16)


@pytest.mark.eight_devices
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["splash", "cudnn", "triton"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("devices", MESHES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_form_has_the_references_values_and_gradients(
    backend, kind, groups, devices, precision
):
    """Fails as the test before does, in a combination that it leaves out."""
    agree(backend, kind, precision=precision, groups=groups, devices=devices)


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no GPU")
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("backend", ["cudnn", "triton"])
def test_kernels_have_the_references_values_and_gradients_on_a_gpu(backend, kind, groups):
    """Fails if a kernel does not do what JAX's own form, or its interpreter, does."""
    code = (
        "import jax; from tests.model.attention.test_kernels import agree;"
        " assert jax.devices()[0].platform == 'gpu', jax.devices();"
        f" agree({backend!r}, {kind!r}, precision='bfloat16', groups={groups}, size=64)"
    )
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=600)


COMPILE = """
import json, re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from lm.distributed import mesh
from lm.example import CausalMask, BidirectionalMask, UntilMask
from lm.model.attention import attend_in_blocks
from lm.numerics import Einsum

kind, length, size, axes = json.loads(sys.argv[1])
chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices
many = mesh.make(mesh.Mesh(**axes), chips)
rows = 2 * mesh.num_shards(many, "batch")

def array(heads=None, dtype=jnp.float32):
    shape, names = (rows, length), ("batch", "length")
    if heads is not None:
        shape, names = (*shape, heads, size), (*names, "act_heads", "head")
    return jax.ShapeDtypeStruct(shape, dtype, sharding=mesh.sharding(many, *names))

def loss(query, key, value, segments, until):
    masks = {"causal": CausalMask(), "full": BidirectionalMask(), "until": UntilMask(until)}
    return attend_in_blocks("splash", query, key, value, segments, masks[kind], mesh=many,
                            einsum=Einsum("bfloat16")).sum()

number = array(dtype=jnp.int32)
compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(
    array(8), array(4), array(4), number, number
).compile()
print(json.dumps(re.findall(
    r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|custom-call)"
    r"(?:-start)?[(](?!.*ConcatBitcast)", compiled.as_text())))
"""


def compile_for_v5e(*case):
    """Shapes and names of the collectives and kernels of the compiled gradient."""
    env = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    arguments = [sys.executable, "-c", COMPILE, json.dumps(case)]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


with_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (pip install yardstick-lm[tpu]), whose compiler this asks",
)


@with_libtpu
def test_splash_compiles_for_a_slice_of_tpus():
    """Fails if Mosaic takes no such block, or more than keys and values is gathered."""
    axes = {"replica": 2, "fsdp": 2, "tensor": 2, "context": 2}
    found = compile_for_v5e("until", 1100, 64, axes)
    assert sum(name == "custom-call" for _, name in found) == 3
    gathered = [shape for shape, name in found if name == "all-gather" and "s32" not in shape]
    assert gathered and all("bf16[2,1100,2,64]" in shape for shape in gathered), found
    assert {name for _, name in found} == {"custom-call", "all-gather", "all-reduce"}


@pytest.mark.slow
@with_libtpu
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [32, 64, 80, 128, 256])
@pytest.mark.parametrize("axes", [{}, {"tensor": 4}, {"context": 4}], ids=str)
def test_splash_compiles_in_every_form(kind, size, axes):
    """Fails as the test before does, in a combination that it leaves out."""
    found = compile_for_v5e(kind, 2048, size, axes)
    assert sum(name == "custom-call" for _, name in found) == 3
    assert any(name == "all-gather" for _, name in found) == ("context" in axes)


def lowered_for_cuda(kind, size=64, dtype=jnp.bfloat16, length=256, backend="cudnn"):
    """The text of the gradient, whose lowering asks for cuDNN's version alone."""
    query, key = (jax.ShapeDtypeStruct((2, length, heads, size), dtype) for heads in (4, 2))
    rows = jax.ShapeDtypeStruct((2, length), jnp.int32)

    def loss(query, key, value, segments, until):
        attention_mask = {
            "causal": CausalMask(),
            "full": BidirectionalMask(),
            "until": UntilMask(until),
        }[kind]
        mixed = KERNELS[backend].attend(
            query, key, value, segments, segments, attention_mask, at_home=True
        )
        return mixed.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(query, key, key, rows, rows)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("kind", MASKS)
def test_cudnn_is_called_for_gpus(monkeypatch, kind):
    """Fails if JAX's XLA form is called there, or causal rows are computed in full."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    text = lowered_for_cuda(kind, length=255)
    calls = set(re.findall(r"__cudnn\$(\w+)", text))
    assert calls == {"fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"}
    assert ("NO_MASK" in text, "CAUSAL" in text) == (kind != "causal", kind == "causal")


@pytest.mark.parametrize("kind", MASKS)
def test_triton_is_lowered_for_gpus_but_for_prefixes(monkeypatch, kind):
    """Fails if Triton takes no such block, or a mask is passed where none need be."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    text = lowered_for_cuda(kind, length=255, backend="triton")
    many = text.count("custom_call @__gpu$xla.gpu.triton")
    assert (many, "__cudnn$" in text) == ((0, True) if kind == "until" else (3, False))


@pytest.mark.parametrize("length", [128, 200, 2048])
def test_triton_computes_the_pairs_that_are_counted(length):
    """Fails if blocks are of another size, or causal rows are computed in full."""
    row = jnp.zeros((1, length, 1, 16))
    rows = jnp.ones((1, length), jnp.int32)
    attend_ = partial(KERNELS["triton"].attend, at_home=False)
    ((grid, _),) = kernels(
        jax.make_jaxpr(lambda x: attend_(x, x, x, rows, rows, BidirectionalMask()))(row).jaxpr
    )
    blocks = grid[0]
    assert pairs("triton", BidirectionalMask(), length) == (128 * blocks) ** 2
    half = 128**2 * blocks * (blocks + 1) // 2
    assert pairs("triton", CausalMask(), length) == half


@pytest.mark.parametrize("size", [8, 20, 128, 136])
def test_heads_are_refused_that_cudnn_refuses(monkeypatch, size):
    """Fails if a bound is not JAX's own: a run would then end in a traceback, or not begin."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    refused = refusal("cudnn", precision="bfloat16", head_size=size) is not None
    try:
        lowered_for_cuda("full", size)
    except NotImplementedError:
        assert refused
    else:
        assert not refused


def test_auto_is_splash_on_tpus_for_long_rows_and_xla_elsewhere():
    """Fails if a platform gets a kernel that is not its own, or an exact run one."""
    auto = partial(choose, "auto", precision="bfloat16", length=2048)
    assert [auto(platform=name) for name in ("tpu", "cpu", "gpu")] == ["splash", "xla", "xla"]
    assert auto(platform="tpu", length=256) == "xla"
    assert auto(platform="tpu", precision="float32") == "xla"
    asked = [choose(name, platform="cpu", precision="float32", length=8) for name in _NAMES]
    assert asked == _NAMES


_NAMES = ["xla", "splash", "triton", "cudnn"]


@pytest.mark.parametrize(
    ("run", "platform", "says"),
    [
        (Run(attention="splash"), "cpu", "is for the platform tpu, and this one is cpu"),
        (Run(attention="cudnn"), "tpu", "is for the platform gpu, and this one is tpu"),
        (Run(attention="splash", precision="float32"), None, "precision=float32"),
        (Run(attention="cudnn", precision="float32"), None, "precision=float32"),
        (
            Run(attention="cudnn", model=Transformer(width=36, heads=2)),
            None,
            "width/heads is 18",
        ),
    ],
)
def test_a_backend_that_cannot_is_refused_in_one_line(run, platform, says):
    """Fails if the refusal waits for a traceback of JAX's."""
    why = refuse_attention(run, platform)
    assert why is not None and why.startswith(f"attention={run.attention} ")
    assert says in why and "\n" not in why and why.endswith("it may be auto or xla")
    if platform is None:
        with pytest.raises(UserError, match=re.escape(why)):
            validate(run)
    else:
        validate(run)


def kernels(jaxpr):
    """Grid and FLOPs of a grid step of each Pallas kernel of a program."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            grid = equation.params["grid_mapping"].grid
            found.append((grid, dots(equation.params["jaxpr"])))
        for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            if _is_jaxpr(value) and equation.primitive.name != "pallas_call":
                found += kernels(getattr(value, "jaxpr", value))
    return found


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def dots(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((summed, _), _) = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * int(np.prod([left[axis] for axis in summed]) * np.prod(out))
        for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                total += dots(getattr(value, "jaxpr", value))
    return total


@pytest.mark.parametrize("remat", ["none", "matmuls"])
@pytest.mark.parametrize("length", [512, 1100])
def test_the_ledger_counts_what_kernels_compute(length, remat):
    """Fails if a product of the backward pass, a padded block or a repetition is left out."""
    model = Transformer(depth=3, width=32, heads=4, kv_heads=2)
    run = Run(
        model=model, objective=Masked(), data=Data(length=length, batch=8), remat=remat,
        attention="splash",
    )  # fmt: skip
    one = mesh.make(Mesh(), jax.devices()[:1])
    query, key = (jnp.zeros((8, length, heads, 8)) for heads in (4, 2))
    segments = jnp.ones((8, length), int)

    def loss(query, key, value):
        return attend_in_blocks(
            "splash",
            query,
            key,
            value,
            segments,
            BidirectionalMask(),
            mesh=one,
            einsum=Einsum("bfloat16"),
        ).sum()

    if remat != "none":
        loss = jax.checkpoint(
            loss, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        )
    found = kernels(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(query, key, key).jaxpr)
    traced = sum(int(np.prod(grid)) * flops for grid, flops in found)
    assert ledger.kernel_flops(run, run.objective, "tpu") == 3 * traced


@pytest.mark.parametrize("length", [128, 200, 640, 2048])
def test_causal_pairs_are_the_blocks_that_splash_visits(length):
    """Fails if blocks are of another size than counted, or one that nobody sees is visited."""
    visited = []
    make = splash_attention_kernel.make_splash_mha

    def noted(mask, **settings):
        with jax.ensure_compile_time_eval():
            kernel = make(mask, **settings)
        sizes = settings["block_sizes"]
        for info in (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info):
            blocks = int((np.asarray(info.block_mask) > 0).sum())
            visited.append(blocks * sizes.block_q * sizes.block_kv)
        return kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splash_attention_kernel, "make_splash_mha", noted)
        query, rows = jnp.zeros((1, length, 2, 8)), jnp.ones((1, length), int)
        jax.eval_shape(
            lambda: KERNELS["splash"].attend(
                query, query, query, rows, rows, CausalMask(), at_home=False
            )
        )
    assert set(visited) == {pairs("splash", CausalMask(), length)}


def test_budgets_do_not_depend_on_the_backend():
    """Fails if equal budgets on two platforms are different numbers of tokens."""
    runs = [Run(attention=name) for name in ("auto", *_NAMES)]
    assert len({str(ledger.cost(run, 512)) for run in runs}) == 1
    long = Run(data=Data(length=1024))
    assert ledger.kernel_flops(long, long.objective, "cpu") == 0
    whole, spread = (
        ledger.kernel_flops(
            Run(data=Data(length=1024), mesh=Mesh(context=n)), long.objective, "tpu"
        )
        for n in (None, 2)
    )
    assert spread * 3 == whole * 4, "causal rows whose positions are spread leave out nothing"
