"""Text in, text out: what `lm generate` does, for Python."""

from lm.config import UserError
from lm.generate.sampling import generate
from lm.train.load import LoadedModel


def generate_text(
    model: LoadedModel,
    text: str,
    *,
    count: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> str:
    """What a causal model adds to a text: at most `count` tokens, or up to its end.

    A temperature of 0 takes the likeliest token. Raises UserError for a model that was not
    trained to predict the next token.
    """
    if "next" not in model.run.objective.predictions:
        raise UserError(
            "the model was not trained to predict the next token: it generates none"
        )
    (ids,) = generate(
        model.program.module,
        model.params,
        [model.tokenizer.encode(text).tolist()],
        vocabulary=model.tokenizer.vocabulary,
        length=model.run.data.length,
        count=count,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )
    return model.tokenizer.decode(ids)
