"""`python -m experiments`: the studies and the questions they ask."""

import ast
from pathlib import Path

from lm.distributed.process import one_line_errors


def main() -> None:
    """Prints a line a study; none is imported, as that takes seconds."""
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        source = ast.parse(path.read_text())
        question = (ast.get_docstring(source) or "").partition("\n")[0]
        print(f"{path.stem:<20} {question}  [{', '.join(scales(source))}]")


def scales(source: ast.Module) -> list[str]:
    """The keys of `PLANS`, a dictionary, in a study's source.

    >>> scales(ast.parse('PLANS = {"smoke": 1, "laptop": 2}'))
    ['smoke', 'laptop']
    """
    plans = [
        statement.value
        for statement in source.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "PLANS"
    ]
    keys = [key for plan in plans if isinstance(plan, ast.Dict) for key in plan.keys]
    return [str(key.value) for key in keys if isinstance(key, ast.Constant)]


if __name__ == "__main__":
    with one_line_errors(jax=False):
        main()
