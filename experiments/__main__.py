"""`python -m experiments`: the studies and the questions they ask."""

import importlib
import pkgutil

import experiments


def main() -> None:
    """Prints a line a study."""
    for module in pkgutil.iter_modules(experiments.__path__):
        if module.name.startswith("_"):
            continue
        study = importlib.import_module(f"experiments.{module.name}")
        if hasattr(study, "runs"):
            question = (study.__doc__ or "").strip().partition("\n")[0]
            print(f"{module.name:<16} {question}  [{', '.join(study.SCALES)}]")


if __name__ == "__main__":
    main()
