"""`lm count`, from the command line to numbers and to one line of error."""

import json

import pytest

from lm.cli import main

MODULE = """
import jax
import jax.numpy as jnp

SIZE = 3

def product(x, y):
    return x @ y

def powers(x, times):
    return jax.lax.fori_loop(0, times, lambda _, y: y @ x, x)

def until(x):
    return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ x, x)

@jax.jit
def alone():
    return product(jnp.ones((4, 5)), jnp.ones((5, 6)))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of another name each time, in the working directory."""
    name = f"counted_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_the_flops_of_a_call_are_printed(module, capsys):
    """Fails if shapes or numbers are not passed on, or what is assumed is not said."""
    main(["count", f"{module}:product", "float32[4,5]", "bfloat16[5,6]"])
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "240 FLOPs"
    assert "dot_general  [4,5] x [5,6]      1    240  100.0%" in out
    main(["count", f"{module}:alone"])
    assert capsys.readouterr().out.splitlines()[-1] == "240 FLOPs"
    main(["count", f"{module}:powers", "float32[4,4]", "7", "--json"])
    assert json.loads(capsys.readouterr().out)["flops"] == 7 * 2 * 4**3
    main(["count", f"{module}:until", "float32[4,4]"])
    assert "note: a while loop in the function turns as data say" in capsys.readouterr().out
    main(["count", f"{module}:until", "float32[4,4]", "--turns", "5"])
    assert "\n640 FLOPs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("nosuch", [], "write MODULE:FUNCTION"),
        ("nosuch_module:f", [], "No module named 'nosuch_module'"),
        ("MODULE:produkt", [], "there is no produkt; nearest: product"),
        ("MODULE:SIZE", [], "it is a int, and no function"),
        ("MODULE:product", ["float32[4,5]"], "missing 1 required positional argument"),
        (
            "MODULE:product",
            ["float32[4,5]", "float32[4,5]"],
            "with float32[4,5], float32[4,5]: ",
        ),
        ("MODULE:product", ["float[4]", "x"], "float32[8,128], or a number"),
        ("MODULE:product", ["single32[4]", "2"], "single32 is no type"),
        ("MODULE:until", ["float32[4,4]", "--turns", "-1"], "--turns -1: must be >= 0"),
    ],
)
def test_what_cannot_be_counted_is_said_in_one_line(module, function, arguments, said, capsys):
    """Fails with a traceback, or without what is wrong."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["count", function.replace("MODULE", module), *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lm: ") and said in line
