"""What is read from compiled programs: held to what jax was asked to compute."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.plan import compile, hlo
from lm.plan.found import HERE

pytestmark = pytest.mark.eight_devices

WHOLE = P()


def compiled(function, *shapes, out=WHOLE):
    over = mesh.make(Mesh(fsdp=4, tensor=2))
    given = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(over, p)) for s, p in shapes
    ]
    program = jax.jit(function, out_shardings=NamedSharding(over, out)).lower(*given).compile()
    return hlo.work(program.as_text(), over.size)


def test_a_loop_is_counted_as_often_as_it_turns():
    """Fails if a body is counted once, as the compiler's own analysis does."""

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    work = compiled(loop, ((64, 32), P("fsdp")), ((32, 32), P()), out=P("fsdp"))
    assert work.flops == 7 * 2 * (64 // 4) * 32 * 32
    assert work.collectives == ()
    # Each turn reads the weights and the rows, and writes the rows.
    each = 4 * (32 * 32 + 2 * 16 * 32)
    assert 7 * each <= work.bytes <= 4 * 7 * each


@pytest.mark.parametrize(
    ("spec", "axes", "fraction"), [("fsdp", (0, 2, 4, 6), 3 / 4), ("tensor", (0, 1), 1 / 2)]
)
def test_collectives_have_their_devices_and_bytes(spec, axes, fraction):
    """Fails if groups are read from the wrong end, or an all-reduce moves its bytes once."""
    work = compiled(lambda x, y: x @ y, ((64, 32), P(None, spec)), ((32, 16), P(spec)))
    (found,) = work.collectives
    assert (found.kind, found.members, found.times) == ("all-reduce", axes, 1)
    assert found.received == 2 * fraction * 64 * 16 * 4
    gathered = compiled(lambda x: x + 1, ((64, 32), P(spec)))
    (found,) = gathered.collectives
    assert (found.kind, found.members) == ("all-gather", axes)
    assert found.received == fraction * 64 * 32 * 4


def test_products_of_float32_are_told_from_those_of_bfloat16():
    """Fails if a step in float32 is planned at the speed of one in bfloat16."""
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)

    def both(x):
        short = x.astype(jnp.bfloat16)
        return x @ x + jnp.matmul(short, short, preferred_element_type=jnp.float32)

    work = hlo.work(jax.jit(both).lower(x).compile().as_text(), 1)
    assert work.flops == 2 * work.flops_float32 == 4 * 64**3


def test_what_is_cut_from_an_array_is_not_the_whole_of_it():
    """Fails if a loop over layers is taken to read all layers each time."""

    def layers(x, w):
        return jax.lax.scan(lambda x, w: (x * w, None), x, w)[0]

    work = compiled(layers, ((128,), P()), ((64, 128), P()))
    assert work.bytes < 3 * 4 * (64 * 128 + 2 * 64 * 128)


TPU = """HloModule jit_step, is_scheduled=true

%cond.1 (arg.1: (s32[], f32[8,16])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(8)
  %arg.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%at.1, %limit.1), direction=LT
}

%body.1 (arg.2: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %arg.2 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %two.1 = s32[]{:T(128)} constant(2)
  %at.2 = s32[]{:T(128)} get-tuple-element(%arg.2), index=0
  %x.1 = f32[8,16]{1,0:T(8,128)} get-tuple-element(%arg.2), index=1
  %next.1 = s32[]{:T(128)} add(%at.2, %two.1)
  %w.1 = bf16[16,16]{1,0:T(8,128)(2,1)S(1)} constant({...})
  %y.1 = f32[8,16]{1,0:T(8,128)} convolution(%x.1, %w.1), dim_labels=bf_io->bf
  %z.1 = f32[8,16]{1,0:T(8,128)} all-reduce(%y.1), channel_id=3,\
 replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%sum.1
  ROOT %both.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%next.1, %z.1)
}

ENTRY %main.1 (x.2: f32[8,16]) -> f32[8,16] {
  %x.2 = f32[8,16]{1,0:T(8,128)} parameter(0)
  %zero.1 = s32[]{:T(128)} constant(0)
  %both.2 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%zero.1, %x.2)
  %loop.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) while(%both.2),\
 condition=%cond.1, body=%body.1
  ROOT %out.1 = f32[8,16]{1,0:T(8,128)} get-tuple-element(%loop.1), index=1
}
"""


def test_a_tpus_program_is_read_too():
    """Fails if a counter's step, memory near the products, or named groups are not read."""
    work = hlo.work(TPU, 8)
    assert work.flops == 4 * 2 * 8 * 16 * 16  # from 0 below 8 in twos
    (found,) = work.collectives
    assert (found.members, found.times, found.bytes) == ((0, 1, 2, 3), 4, 8 * 16 * 4)
    # The product reads and writes the rows, and so does the sum, in whole tiles of 8 x 128; the
    # weights are nearer. And the counter.
    assert work.bytes == 4 * (4 * 8 * 128 * 4 + 3 * 4)


def test_what_moves_most_is_named_by_its_place():
    """Fails if a loop's turns count once, a place's operations stand apart, or passes are
    mixed up.
    """
    path = "jit(step)/while/body/transpose(jvp(Module))/while/body/layers/layers._mlp/dot"
    product = "dim_labels=bf_io->bf"
    text = TPU.replace(product, f'{product}, metadata={{op_name="{path}"}}')
    tile = 8 * 128 * 4
    assert [(each.name, each.times, each.bytes) for each in hlo.work(text, 8).traffic] == [
        ("backward layers._mlp dot f32[8,16]", 4, 4 * 2 * tile),
        ("z f32[8,16]", 4, 4 * 2 * tile),
        ("next s32[]", 4, 4 * 3 * 4),
    ]


def test_slices_move_what_they_cut_and_copies_to_nearer_memory_all():
    """Fails if a slice is not both read and written, or is the whole of an array; or if a copy
    is free, as what is near is.
    """
    text = """%fused (y: f32[64,128], i: s32[]) -> f32[1,128] {
  %y = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %none = s32[] constant(0)
  ROOT %cut = f32[1,128]{1,0} dynamic-slice(%y, %i, %none), dynamic_slice_sizes={1,128}
}
ENTRY %main (x: f32[64,128], at: s32[]) -> f32[64,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,128]{1,0} dynamic-slice(%x, %at, %zero), dynamic_slice_sizes={1,128}
  %other = f32[1,128]{1,0} fusion(%x, %at), kind=kLoop, calls=%fused
  %new = f32[64,128]{1,0} dynamic-update-slice(%x, %other, %at, %zero)
  %begun = (f32[64,128]{1,0:S(1)}, f32[64,128]{1,0}, u32[]) copy-start(%new)
  ROOT %near = f32[64,128]{1,0:S(1)} copy-done(%begun)
}
"""
    row = 128 * 4
    most = [each.bytes for each in hlo.work(text, 1).traffic]
    assert most == [64 * row, 2 * row + 4, 2 * row, 2 * row]  # and the index that is fused


def test_a_layer_that_is_unrolled_sends_as_often_as_it_stands_there():
    """Fails if copies of a collective count once, or one that kernels share more often."""
    sends = "f32[8]{0} all-reduce(%x), channel_id=3, replica_groups={{0,1}}, to_apply=%sum"
    kernels = (
        f"""%kernel.{number} (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %a.{number} = {sends.replace("channel_id=3", "channel_id=4")}
}}
"""
        for number in (1, 2, 3, 4)
    )
    text = f"""{"".join(kernels)}
ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %b.1 = {sends}
  %b.2 = {sends.replace("%x", "%b.1")}
  %async-collective-start = f32[8]{{0}} fusion(%b.2), kind=kLoop, calls=%kernel.1
  %c.1 = f32[8]{{0}} fusion(%async-collective-start), kind=kLoop, calls=%kernel.2
  %async-collective-start.1 = f32[8]{{0}} fusion(%c.1), kind=kLoop, calls=%kernel.3
  ROOT %c.2 = f32[8]{{0}} fusion(%async-collective-start.1), kind=kLoop, calls=%kernel.4
}}
"""
    assert [found.times for found in hlo.work(text, 2).collectives] == [1, 1, 1, 1]


def test_what_a_tpu_reduces_and_cuts_in_one_kernel_is_scattered():
    """Fails if a gradient of which each device keeps a part is taken to be sent to all."""
    text = """%all-reduce-scatter.3 (x: f32[8,128]) -> f32[1,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %sum.1 = f32[8,128]{1,0} all-reduce(%x), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}},\
 to_apply=%sum
  %zero = u32[] constant(0)
  %at = u32[] partition-id()
  ROOT %part = f32[1,128]{1,0} dynamic-slice(%sum.1, %at, %zero), dynamic_slice_sizes={1,128}
}
ENTRY %main (x: f32[8,128]) -> f32[1,128] {
  %x = f32[8,128]{1,0} parameter(0)
  ROOT %out = f32[1,128]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
}
"""
    (found,) = hlo.work(text, 8).collectives
    assert (found.kind, found.received) == ("reduce-scatter", 7 / 8 * 8 * 128 * 4)


def test_what_hosts_send_between_slices_is_an_all_reduce_along_them():
    """Fails if a TPU's program is taken to send nothing between slices, or all to all."""
    recv = """ENTRY %main (t: token[]) -> f32[16,8,128] {
  %t = token[] parameter(0)
  %recv.1 = (f32[16,8,128]{2,1,0:T(8,128)}, u32[], token[]) recv(%t), channel_id=11,\
 is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %done.1 = (f32[16,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv.1), channel_id=11
  %part.1 = f32[16,8,128]{2,1,0:T(8,128)} get-tuple-element(%done.1), index=0
  ROOT %out.1 = f32[16,8,128]{2,1,0:T(8,128)} all-reduce(%part.1), channel_id=11,\
 replica_groups={{0,1,2,3}}, to_apply=%sum.1
}
"""
    found, inside = hlo.work(recv, 8).collectives
    assert inside.members == (0, 1, 2, 3)
    assert found == ("all-reduce", 16 * 8 * 128 * 4, (0, 4), 1)
    assert found.received == found.bytes  # half of it, out and back


@pytest.mark.parametrize(
    ("window", "labels", "left", "right", "out", "flops"),
    [
        ("", "bf_io->bf", (8, 16), (16, 32), (8, 32), 2 * 8 * 16 * 32),
        # A batch of 3 products of 4 x 5 and 5 x 6, written as a window over the batch.
        (
            "window={size=3 stride=2 lhs_dilate=3}, ",
            "0bf_0io->0bf",
            (3, 4, 5),
            (3, 5, 6),
            (3, 4, 6),
            3 * 2 * 4 * 5 * 6,
        ),
    ],
)
def test_products_written_as_convolutions_are_products(window, labels, left, right, out, flops):
    """Fails if holes of a dilated input are multiplied, or an axis is taken for another."""
    a, b, c = (f"f32[{','.join(map(str, shape))}]" for shape in (left, right, out))
    text = f"""ENTRY %main (a: {a}, b: {b}) -> {c} {{
  %a = {a} parameter(0)
  %b = {b} parameter(1)
  ROOT %c = {c} convolution(%a, %b), {window}dim_labels={labels}
}}"""
    assert hlo.work(text, 1).flops == flops


def test_a_device_alone_moves_nothing():
    """Fails if a collective of one device, of which some kernels have one, is counted, or a
    permutation is not, in which the first device has no part.
    """
    over, places = mesh.make(Mesh(fsdp=8)), dict.fromkeys(jax.devices(), 0)
    found = [hlo.Collective("all-reduce", 8, devices, 1) for devices in ((3,), (2, 3))]
    program: Any = SimpleNamespace(mesh=over)
    found.append(hlo.Collective("collective-permute", 4, (0,), 1))
    moved = compile._moved(found, program, HERE, places)
    assert [(each.kind, each.axes, each.bytes) for each in moved] == [
        ("all-reduce", "fsdp", 8), ("collective-permute", "", 4),
    ]  # fmt: skip
