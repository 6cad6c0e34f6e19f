"""Training programs of one shape, ours and other people's, in turns."""

import importlib
import importlib.metadata
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.speed.machine import (
    Child,
    Failed,
    complain,
    device_memory,
    resident,
)
from experiments.benchmarks.speed.plan import (
    CAUSAL,
    Plan,
    Result,
    Shape,
    compiled,
    random_rows,
    work_of,
)
from experiments.benchmarks.speed.timing import interleave, ratio, seconds_each, spread
from lm.objectives import Objective
from lm.train.loop import FREED, LONG_STEP


class Program(NamedTuple):
    """A training loop that takes as many steps as it is asked for."""

    step: Callable[[], Any]
    """Begins a step."""
    wait: Callable[[Any], Any]
    """Returns when what `step` gave is done."""
    memory: Callable[[], int]
    """Most bytes that were in use so far."""

    def run(self, steps: int) -> float:
        """Seconds a step, of so many in a row."""
        return seconds_each(self.step, steps, wait=self.wait)


def a_step_late(update: Callable[[], Any]) -> Program:
    """The loop that waits for what a step gave while the next one runs, or as `fit` does."""
    on_cpu = jax.default_backend() == "cpu"
    last: Any = None
    tick, long = -math.inf, 1.0 if on_cpu else None

    def step() -> Any:
        nonlocal last, tick, long
        if long is not None:
            jax.block_until_ready(last)
            time.sleep(FREED * long)
        before, last = last, update()
        jax.block_until_ready(before)
        now = time.monotonic()
        took, tick = min(now - tick, 1.0), now
        long = took if took > LONG_STEP and on_cpu else None
        return last

    return Program(step, jax.block_until_ready, device_memory)


def ours(shape: Shape, objective: Objective = CAUSAL) -> Program:
    """The step that `lm train` takes."""
    program = compiled(shape, objective)
    rows = program.place(random_rows(shape))
    state = program.init()

    def update() -> Any:
        nonlocal state
        state, metrics = program.step(state, rows)
        return metrics

    return a_step_late(update)


def nanodo(shape: Shape) -> Program:
    """Google DeepMind's nanodo: its model in bfloat16, under adamw."""
    model = importlib.import_module("nanodo.model")
    module = model.TransformerDo(
        model.DoConfig(
            D=shape.width,
            H=shape.heads,
            L=shape.length,
            N=shape.depth,
            V=shape.vocabulary,
            F=4 * shape.width,
            dtype=jnp.bfloat16,
            fsdp_enabled=False,
        )
    )
    tokens_BL = jnp.asarray(random_rows(shape).tokens_BL)
    optimizer = optax.adamw(1e-3, weight_decay=0.1)

    def loss(params: Any, tokens_BL: jax.Array) -> jax.Array:
        logits_BLV = module.apply({"params": params}, tokens_BL)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits_BLV[:, :-1], tokens_BL[:, 1:]
        ).mean()

    @partial(jax.jit, donate_argnums=0)
    def update(state: Any, tokens_BL: jax.Array) -> tuple[Any, jax.Array]:
        value, grads = jax.value_and_grad(loss)(state[0], tokens_BL)
        updates, moments = optimizer.update(grads, state[1], state[0])
        return (optax.apply_updates(state[0], updates), moments), value

    params = jax.jit(module.init)(jax.random.key(0), tokens_BL)["params"]
    state = params, optimizer.init(params)

    def step() -> jax.Array:
        nonlocal state
        state, value = update(state, tokens_BL)
        return value

    return a_step_late(step)


def pytorch(shape: Shape) -> Program:
    """Our transformer as one would write it in PyTorch, compiled, with its fused attention."""
    torch: Any = importlib.import_module("torch")
    nn: Any = torch.nn
    functional = nn.functional
    width, heads = shape.width, shape.heads
    linear = partial(nn.Linear, bias=False)

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
            self.qkv, self.out = linear(width, 3 * width), linear(width, width)
            self.up, self.down = linear(width, 4 * width), linear(4 * width, width)

        def forward(self, x: Any, cos: Any, sin: Any) -> Any:
            shape_ = (x.shape[0], x.shape[1], 3, heads, width // heads)
            q, k, v = self.qkv(self.norms[0](x)).view(shape_).permute(2, 0, 3, 1, 4)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
            inner = functional.gelu(self.up(self.norms[1](x)), approximate="tanh")
            return x + self.down(inner)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(shape.vocabulary, width)
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.blocks = nn.ModuleList(Block() for _ in range(shape.depth))
            self.norm = nn.RMSNorm(width)
            size = width // heads
            rates = 1e4 ** (-torch.arange(0, size, 2) / size)
            angles = torch.arange(shape.length)[:, None] * rates[None, :]
            self.register_buffer("cos", angles.cos().bfloat16())
            self.register_buffer("sin", angles.sin().bfloat16())

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens)
            for block in self.blocks:
                x = block(x, self.cos, self.sin)
            logits = functional.linear(self.norm(x[:, :-1]), self.embedding.weight)
            return functional.cross_entropy(
                logits.float().flatten(0, 1), tokens[:, 1:].flatten()
            )

    model = Model().to(_torch_device())
    return _torch_program(shape, torch.compile(model), model.parameters())


def transformers(shape: Shape, *, eager: bool = False) -> Program:
    """Hugging Face's Llama, whose gated MLP is as large as our plain one."""
    torch: Any = importlib.import_module("torch")
    library: Any = importlib.import_module("transformers")
    model = library.LlamaForCausalLM(
        library.LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=8 * shape.width // 3,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.length,
            hidden_act="gelu_pytorch_tanh",
            tie_word_embeddings=True,
            attn_implementation="sdpa",
            use_cache=False,
        )
    ).to(_torch_device())
    called = model if eager else torch.compile(model)

    def loss(tokens: Any) -> Any:
        return called(input_ids=tokens, labels=tokens).loss

    return _torch_program(shape, loss, model.parameters())


def _torch_device() -> str:
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available() and jax.default_backend() != "cpu":
        raise RuntimeError(f"this PyTorch cannot use the {jax.default_backend()}")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _torch_program(shape: Shape, model: Callable[[Any], Any], parameters: Any) -> Program:
    """The loop around a model from tokens to loss, in bfloat16 under autocast."""
    torch: Any = importlib.import_module("torch")
    device = _torch_device()
    tokens = torch.from_numpy(random_rows(shape).tokens_BL).long().to(device)
    optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.1, fused=True)

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16):
            loss = model(tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    if device == "cuda":
        synchronize, memory = torch.cuda.synchronize, torch.cuda.max_memory_allocated
        return Program(step, lambda _: synchronize(), memory)
    return Program(step, lambda _: None, lambda: resident("VmHWM"))


class Peer(NamedTuple):
    """Another program that trains the same shape."""

    make: Callable[[Shape], Program]
    package: str
    install: str
    keep_memory: bool = True
    """Whether it is given our setting of the allocator too, or left as it comes."""
    otherwise: tuple[Callable[[Shape], Program], ...] = ()
    """What to run where it fails, or takes more than minutes to compile."""


TORCH = "pip install torch==2.13.0"
PEERS = {
    "PyTorch": Peer(pytorch, "torch", TORCH),
    "PyTorch, its own allocator": Peer(pytorch, "torch", TORCH, keep_memory=False),
    "nanodo": Peer(
        nanodo, "nanodo", "pip install git+https://github.com/google-deepmind/nanodo"
    ),
    "transformers": Peer(
        transformers,
        "transformers",
        "pip install transformers torch==2.13.0",
        otherwise=(partial(transformers, eager=True),),
    ),
}


def installed(peer: Peer) -> bool:
    """Whether its package can be imported."""
    return find_spec(peer.package) is not None


def peers(plan: Plan) -> Result:
    """Other people's programs on the main shape, in turns with ours.

    Theirs clip no gradients and tell nothing but the loss.
    """
    shape = plan.shapes[plan.main]
    wanted = {n: p for n, p in PEERS.items() if p.keep_memory or plan.platform == "cpu"}
    there = {name: peer for name, peer in wanted.items() if installed(peer)}
    missing = {peer.package: peer.install for peer in PEERS.values() if not installed(peer)}
    for package, install in missing.items():
        complain(f"peers: {package} is not installed: {install}")
    # All that take turns are in memory together, for which an accelerator's may be too small.
    groups = [there] if plan.platform == "cpu" else [{n: p} for n, p in there.items()]
    programs: Result = {}
    mine: list[float] = []
    for group in groups:
        try:
            rounds, memory = _in_turns(group, shape, plan)
        except Failed as error:
            complain(f"peers: ours: {error}")
            continue
        mine += rounds["ours"]
        for name, seconds in rounds.items():
            programs[name] = {
                "seconds": spread(mine if name == "ours" else seconds),
                "ratio": ratio(rounds["ours"], seconds),
                "peak_bytes": memory[name],
            }
    if not programs:
        raise Failed("none could be run in turns with ours")
    versions = {peer.package: _version(peer.package) for peer in there.values()}
    return {
        "shape": plan.main,
        **work_of(shape, CAUSAL),
        "programs": programs,
        "missing": missing,
        "versions": versions,
    }


def _in_turns(
    group: dict[str, Peer], shape: Shape, plan: Plan
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds a step of ours and of each peer that runs, and the memory that each took."""
    with ExitStack() as stack:
        children = {"ours": stack.enter_context(_warmed_up(ours, shape))}
        for name, peer in group.items():
            try:
                children[name] = stack.enter_context(_child(peer, shape))
            except Failed as error:
                complain(f"peers: {name}: {error}")
        runs = {name: partial(child.ask, "run") for name, child in children.items()}
        rounds = interleave(runs, plan._replace(burst=2 * plan.burst))
        if "ours" not in rounds:
            raise Failed("it was not measured to the end")
        return rounds, {name: children[name].ask("memory") for name in rounds}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        return ""


def _child(peer: Peer, shape: Shape) -> Child:
    """The peer, warmed up; or, where that fails, what is to run in its place."""
    *others, last = (peer.make, *peer.otherwise)
    for make in others:
        with suppress(Failed):
            return _warmed_up(make, shape, keep_memory=peer.keep_memory)
    return _warmed_up(last, shape, keep_memory=peer.keep_memory)


def _warmed_up(
    make: Callable[[Shape], Any], shape: Shape, *, keep_memory: bool = True
) -> Child:
    """A program whose memory has settled: the first steps still ask the system for more."""
    child = Child(make, shape, keep_memory=keep_memory, limit=300)
    try:
        child.ask("run", 8)
    except Failed:
        child.close()
        raise
    return child
