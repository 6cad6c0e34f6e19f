"""How many numbers does an image of a digit need between an encoder and a decoder, or a text?

An encoder reads a held-out image (8 by 8 pixels of 17 grey levels, a token each) or a short
text, and a decoder says it again from a code of a few numbers between -1 and 1, which is all
that it is told. One decoder also sees what it has said so far, as a GPT does; the other has
the code alone, and says all tokens independently of each other. Each is trained at several
widths of the code. A GPT without a code says what the images and the texts cost by themselves.

Answers to: Hinton and Salakhutdinov 2006 ("Reducing the dimensionality of data with neural
networks"), whose codes of two numbers tell digits apart; and Bowman et al. 2016
(arXiv:1511.06349), whose decoders of sentences that see what they said leave the code unused.

    python -m experiments.latent --scale laptop

    smoke   not timed           toys, to see that everything works; needs scikit-learn
    laptop  16 minutes          0.1M parameters, 0.5M tokens each, 1,797 images, 3,300 sentences

Expect the decoder that has the code alone far behind at narrow codes and level at wide ones,
digits told apart by two numbers, more of them by sixteen; texts to come back in part at best,
and no code to be worth its own bits, as a GPT needs none.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from lm.data import Bytes, Data, Digits, Jsonl
from lm.model import EncoderDecoder, Model
from lm.model.code import Code
from lm.model.positions import Learned
from lm.objectives import Causal, Reconstruct
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import latent, latent_shown
from lm.study.analyses.latent import DecoderKind, DocumentKind
from lm.study.grid import Scale, Size, StudyRun, Variant, variant_of
from lm.study.groups import groups_of
from lm.study.report.figures import BLUE, INK, VERMILLION
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER
from lm.study.tables import equal_table

DOCUMENTS = {
    "digits": DocumentKind("Images of digits", "bits per pixel"),
    "texts": DocumentKind("Sentences", "bits per byte"),
}
KINDS = {
    "past": DecoderKind("sees what it said", Reconstruct(), BLUE),
    "alone": DecoderKind("has the code alone", Reconstruct(masked=1.0), VERMILLION),
    "gpt": DecoderKind("GPT", Causal(), INK),
}
WIDTHS = {"digits": (1, 2, 4, 8, 16), "texts": (4, 16, 64)}
"""Numbers of the code."""
VARIANTS = {
    f"{content}_{kind}_{width}": Variant(label, label, objective, colour)
    for content, widths in WIDTHS.items()
    for kind, (what, objective, colour) in KINDS.items()
    for width in ((0,) if kind == "gpt" else widths)
    for label in [f"{DOCUMENTS[content].title}, {what}" + (f", {width}" if width else "")]
}
"""DocumentKind, kind of decoder, and numbers of the code."""
VARIED = ("model", "data")
IMAGES = Data(
    corpus=Digits(),
    tokenizer=Bytes(),
    length=Digits.row_length,
    batch=8,
    validation=0.15,
    packing="single",
)
SENTENCES = replace(
    IMAGES, corpus=Jsonl(paths=(latent.TEXTS,)), length=latent.LONGEST + 2, validation=0.1
)
PLANS = {
    "smoke": Scale(
        IMAGES,
        sizes=(Size(1, 16, 2),),
        tokens=(1056,),
        seeds=2,
        settings={"evaluations": 1, "evaluation_rows": 16},
        only=("digits_past_2", "digits_alone_2", "digits_gpt_0", "texts_past_4", "texts_gpt_0"),
    ),
    "laptop": Scale(
        IMAGES,
        sizes=(Size(1, 64, 2),),
        tokens=(500_000,),
        seeds=2,
        settings={"evaluations": 2, "evaluation_rows": 128},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {name: scales.PART_EFFORT[name] for name in SCALES}
SENTENCES_OF = {"smoke": 400, "laptop": None}
"""How many sentences there are; None: as many as there are in Python's library."""


def runs(scale: str) -> dict[str, Run]:
    """Every width of both decoders and a GPT, of images and of texts, for every seed."""
    found, plan = dict[str, Run](), PLANS[scale]
    (size,) = plan.sizes
    for name, run in plan.runs(VARIANTS).items():
        content, _, width = name.partition("-")[0].split("_")
        data = IMAGES if content == "digits" else SENTENCES
        model: Model = replace(size.model, positions=Learned(length=data.length))
        if int(width):
            model = EncoderDecoder(
                depth=size.depth,
                width=size.width,
                heads=size.heads,
                positions=Learned(length=data.length),
                code=Code(size=int(width)),
            )
        found[name] = replace(run, data=data, model=model)
    return found


def before(scale: str, directory: Path) -> list[str]:
    """Writes the short texts."""
    latent.write_sentences(directory, SENTENCES_OF[scale])
    return []


def after(cells: list[StudyRun], directory: Path) -> None:
    """Asks all runs for held-out images and texts."""
    latent.ask_latent(cells)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    found = list(latent.families(cells, DOCUMENTS, KINDS).values())
    coded = [family for family in found if 0 not in family.by_width]
    images = [family for family in coded if family.documents == DOCUMENTS["digits"]]
    texts = [family for family in coded if family.documents == DOCUMENTS["texts"]]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        list(groups_of(cells, VARIANTS).values()),
        title="A narrow code between an encoder and a decoder",
        answer=latent_shown.answers(found) or NO_ANSWER,
        details=[DETAILS] if found else None,
        table=latent_shown.latent_table(found),
        sections=[
            sections.figure_section(
                "By the width of the code",
                "widths",
                latent_shown.widths_figure(found),
                "Filled: what a document costs the decoder that is given its code, for which"
                " nothing is paid, with 95% intervals over documents and seeds. Hollow: the"
                " same with each number of the code rounded to some bits, which are paid for,"
                " as many as make the sum least. The line is what a GPT of the same layers"
                " needs without a code.",
            ),
            sections.figure_section(
                "The space of codes",
                "space",
                latent_shown.space_figure(latent_shown.spaces(images)),
                "Held-out images by their codes, coloured by digit; each digit stands at its"
                " median. Codes of two numbers are shown as they are, wider ones in their two"
                " directions of most variance. One seed.",
            ),
            sections.figure_section(
                "What comes of a code",
                "plane",
                latent_shown.plane_figure(latent_shown.planes(images)),
                "What the decoder says of codes of two numbers on a grid over the codes of"
                " held-out images: the likeliest level of each pixel. Orange is what is no grey"
                " level. One seed.",
            ),
            sections.figure_section(
                "What comes back of images",
                "reconstructions",
                latent_shown.images_figure(latent_shown.lines_back(images)),
                "Held-out images and what comes of their codes, by decoder and numbers of the"
                " code: the likeliest level of each pixel. One seed.",
            ),
            sections.figure_section(
                "Who is near whom",
                "neighbours",
                latent_shown.images_figure(latent_shown.lines_near(images)),
                "A held-out image of each digit, and the six other held-out images whose codes"
                " are nearest, by the widest code of the decoder that has it alone. One seed.",
                latent_shown.nearness(images),
            ),
            sections.section("What comes back of sentences", latent_shown.texts_table(texts)),
            sections.section(
                sections.EQUAL,
                equal_table(_compared(cells), "between those of one content and seed", VARIED),
                "All of one content read the same rows in the same order, with layers of one"
                " size. The encoder and the decoder's attention to it are parameters and FLOPs"
                " that the GPT does not have.",
            ),
            sections.section("What this does and does not show", LIMITS),
        ]
        if found
        else [],
        compared=_compared(cells),
        varied=VARIED,
    )


DETAILS = (
    "In brackets are 95% intervals, a bootstrap over held-out documents and over the seeds, of"
    " which two say little. Bits given a code are no code length: the code is not among them."
)
LIMITS = (
    "It shows what codes of these widths hold for tiny models with one learning rate, tuned for"
    " none, after a few readings of 1,500 images of one size and of sentences of one kind: a"
    " wider code that is no better may only want more steps. The decoder that has the code"
    " alone takes tokens as independent of each other given it, so that what it says is"
    " blurred where it is unsure. Nothing makes codes smooth or evenly spread, as noise or a"
    " prior would (a variational autoencoder): that digits lie apart is a by-product, the axes"
    " mean nothing by themselves, and another seed turns or bends them. The bits of the paid"
    " code are chosen on the documents that are scored, and the code is sent as if all its"
    " values were equally likely. Python's documentation is hardly English."
)


def _compared(cells: Sequence[StudyRun]) -> dict[str, dict[str, StudyRun]]:
    """The runs of one content and seed, by variant."""
    found: dict[str, dict[str, StudyRun]] = {}
    for cell in cells:
        content = variant_of(cell).split("_")[0]
        row = f"{DOCUMENTS[content].title}, seed {cell.run.seed}"
        found.setdefault(row, {})[variant_of(cell)] = cell
    return found


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
