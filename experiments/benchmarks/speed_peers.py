"""Training programs of one shape, ours and other people's, each for a process of its own."""

import importlib
import multiprocessing
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.data import Data
from lm.distributed import mesh
from lm.distributed.process import prepare_machine
from lm.example import Batch, Vocabulary
from lm.model import Transformer
from lm.objectives import Causal, Objective
from lm.run import Run
from lm.train.step import Program as Compiled
from lm.train.step import prepare

CAUSAL = Causal()


class Shape(NamedTuple):
    """A model and its batch."""

    depth: int
    width: int
    heads: int
    batch: int
    vocabulary: int
    length: int = 256

    @property
    def tokens(self) -> int:
        """Positions of a step."""
        return self.batch * self.length


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


def seconds_each(
    function: Callable[[], Any],
    times: int,
    *,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> float:
    """Seconds a call, of so many in a row, until what the last one gave is done."""
    start, last = time.perf_counter(), None
    for _ in range(times):
        last = function()
    wait(last)
    return (time.perf_counter() - start) / times


def settings(shape: Shape, objective: Objective = CAUSAL) -> Run:
    """A shape as the settings of a run."""
    return Run(
        data=Data(batch=shape.batch, length=shape.length),
        objective=objective,
        model=Transformer(depth=shape.depth, width=shape.width, heads=shape.heads),
        tokens=1_000_000 * shape.tokens,  # no schedule ends while it is timed
    )


def vocabulary_of(shape: Shape) -> Vocabulary:
    """A vocabulary that stands for no text."""
    size = shape.vocabulary
    return Vocabulary(
        size=size, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * size
    )


def compiled(shape: Shape, objective: Objective = CAUSAL) -> Compiled:
    """The program of `lm train`, on one device."""
    run = settings(shape, objective)
    return prepare(run, vocabulary_of(shape), mesh.make(run.mesh, jax.devices()[:1]))


def random_rows(shape: Shape) -> Batch:
    """Rows of random tokens, each one document."""
    size = (shape.batch, shape.length)
    tokens_BL = np.random.default_rng(1).integers(4, shape.vocabulary, size, dtype=np.int32)
    tokens_BL[:, 0] = vocabulary_of(shape).bos
    return Batch(tokens_BL, np.ones(size, np.int32))


def ours(shape: Shape, objective: Objective = CAUSAL) -> Program:
    """The step that `lm train` takes."""
    program = compiled(shape, objective)
    rows = program.place(random_rows(shape))
    state = program.init()

    metrics: Any = None

    def step() -> Any:
        nonlocal state, metrics
        before = metrics
        state, metrics = program.step(state, rows)
        jax.block_until_ready(before)  # a step late, as `fit` reads them
        return metrics

    return Program(step, jax.block_until_ready, device_memory)


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

    value: Any = None

    def step() -> jax.Array:
        nonlocal state, value
        before = value
        state, value = update(state, tokens_BL)
        jax.block_until_ready(before)
        return value

    return Program(step, jax.block_until_ready, device_memory)


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


class Failed(Exception):
    """What a process of ours was asked for could not be had, in one line."""


class Child:
    """An object in a process of its own, whose methods can be called.

    Nothing else here touches the accelerator: a process that does may keep it to itself.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *arguments: Any,
        keep_memory: bool = True,
        cache: Path | None = None,
        limit: float = 900,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._limit = limit
        self._process = context.Process(
            target=_serve, args=(theirs, keep_memory, make, arguments), daemon=False
        )
        with environment(cache):
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the method returns; raises Failed if it raises, dies or takes too long."""
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        if not self._pipe.poll(self._limit):
            raise Failed(f"no answer in {self._limit:.0f} s")
        try:
            well, prediction = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise Failed(f"its process ended with code {self._process.exitcode}") from None
        if not well:
            raise Failed(prediction)
        return prediction

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def alone(function: Callable[..., Any], *arguments: Any, cache: Path | None = None) -> Any:
    """What a function returns in a fresh process."""
    with Child(partial, function, *arguments, cache=cache) as child:
        return child.ask("__call__")


def _serve(pipe: Any, keep_memory: bool, make: Callable[..., Any], arguments: Any) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    try:
        if keep_memory:
            prepare_machine()
        made = make(*arguments)
        pipe.send((True, None))
        while True:
            method, arguments = pipe.recv()
            pipe.send((True, getattr(made, method)(*arguments)))
    except EOFError:
        pass
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        pipe.send((False, f"{type(error).__name__}: {line}"))


@contextmanager
def environment(cache: Path | None) -> Iterator[None]:
    """What a child inherits: several may share a GPU, and compiled programs go to `cache`."""
    before = dict(os.environ)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if cache is not None:
        os.environ["LM_CACHE"] = str(cache)
        for name in [name for name in os.environ if re.match("JAX_.*_CACHE_", name)]:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def device_memory() -> int:
    """Most bytes that were in use on the device; on a CPU, those of the process."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else resident("VmHWM")


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM).

    Linux hands `ru_maxrss` down to child processes, so it is only asked elsewhere.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    found = re.search(rf"{field}:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
