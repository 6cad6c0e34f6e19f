"""Settings: JSON both ways, overrides, errors of one line, help that leaves nothing out."""

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from lm.config import (
    Config,
    UserError,
    describe,
    digest,
    dump,
    override,
    parse,
    validate_fields,
)


class Adam(Config, tag="adam"):
    """Adam, as everybody has it."""

    rate: Annotated[float, Meta(gt=0, description="step size")] = 1e-3
    decay: Annotated[float, Meta(ge=0, lt=1, description="of the mean")] = 0.9
    clip: Annotated[float, Meta(gt=0, description="largest norm")] | None = None


class Lion(Config, tag="lion"):
    """Lion, by its sign."""

    rate: Annotated[float, Meta(gt=0, description="step size")] = 1e-4
    sharp: Annotated[bool, Meta(description="no interpolation")] = False


class File(Config, tag="file"):
    """A file, which has no default."""

    path: Annotated[str, Meta(min_length=1, description="where it is")]


class Web(Config, tag="web"):
    """A page."""

    path: Annotated[str, Meta(description="where it is")] = "localhost"


class Model(Config):
    depth: Annotated[int, Meta(ge=1, description="layers")] = 4
    width: Annotated[int, Meta(ge=8, multiple_of=8, description="model width")] = 64
    remat: Annotated[Literal["none", "full"], Meta(description="recomputed")] = "none"


class Run(Config):
    model: Model = Model()
    optimizer: Annotated[Adam | Lion, Meta(description="how parameters move")] = Adam()
    source: Annotated[File | Web, Meta(description="read first")] = Web()
    corpora: Annotated[tuple[File | Lion, ...], Meta(description="read in turn")] = ()
    probe: Annotated[Adam | Lion | None, Meta(description="trained after")] = None
    tokens: Annotated[int, Meta(ge=1, description="budget")] = 1000
    cast: Annotated[Literal["int8"] | None, Meta(description="of activations")] = None
    name: Annotated[str, Meta(description="of the run")] = "run"
    shares: Annotated[tuple[float, ...], Meta(description="of the parts")] = (0.15, 1.0)


def floats(**bounds):
    return st.floats(allow_nan=False, allow_infinity=False, **bounds)


texts = st.text(st.characters(exclude_categories=["Cs"]))
adams = st.builds(
    Adam,
    rate=floats(min_value=0, exclude_min=True),
    decay=floats(min_value=0, max_value=1, exclude_max=True),
    clip=st.none() | floats(min_value=0, exclude_min=True),
)
lions = st.builds(Lion, rate=floats(min_value=0, exclude_min=True), sharp=st.booleans())
files = st.builds(File, path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
runs = st.builds(
    Run,
    model=st.builds(
        Model,
        depth=st.integers(1),
        width=st.integers(1).map(lambda n: 8 * n),
        remat=st.sampled_from(["none", "full"]),
    ),
    optimizer=adams | lions,
    source=files | st.builds(Web, path=texts),
    cast=st.sampled_from([None, "int8"]),
    corpora=st.lists(files | lions, max_size=3).map(tuple),
    probe=st.none() | adams | lions,
    tokens=st.integers(1),
    name=texts,
    shares=st.lists(floats(), max_size=3).map(tuple),
)


def error_of(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@given(runs)
def test_json_out_and_in_is_the_identity(run):
    """Fails if `dump` leaves out defaults or tags, or `parse` loses a field or rounds."""
    text = dump(run)
    assert parse(Run, text, "here") == run
    assert dump(parse(Run, text, "here")) == text
    assert digest(parse(Run, text, "here")) == digest(run)
    assert list(msgspec.json.decode(text)) == list(Run.__struct_fields__)


@given(runs, runs)
def test_digest_is_equal_exactly_when_runs_are(a, b):
    assert (digest(a) == digest(b)) == (dump(a) == dump(b))


def test_digest_is_stable():
    """Fails if it depends on the process, on the order of fields, or on how 1.0 is written."""

    class AB(Config):
        a: int = 1
        b: int = 2

    class BA(Config):
        b: int = 2
        a: int = 1

    assert digest(Run()) == "a21ccb582a979696"
    assert digest(AB()) == digest(BA())
    assert digest(Run(optimizer=Adam(rate=1))) == digest(Run(optimizer=Adam(rate=1.0)))


@given(runs, runs)
def test_overriding_every_field_gives_the_other_run(a, b):
    """Fails if any kind of field cannot be set, or setting it depends on what was there."""
    plain = msgspec.to_builtins(b)
    whole = [f"{name}={msgspec.json.encode(value).decode()}" for name, value in plain.items()]
    assert override(a, whole) == b


@given(
    st.permutations(
        ["optimizer.sharp=true", "optimizer.type=lion", 'optimizer={"type":"adam"}']
    )
)
def test_overrides_apply_in_any_order(assignments):
    """Fails if assignments are applied as given: a variant's field before its variant."""
    assert override(Run(), assignments).optimizer == Lion(sharp=True)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("model.depth=6", "model.depth", 6),
        ("tokens=1e6", "tokens", 1_000_000),
        ("optimizer.rate=1", "optimizer.rate", 1.0),
        ("optimizer.clip=2.5", "optimizer.clip", 2.5),
        ("optimizer.clip=none", "optimizer.clip", None),
        ("optimizer.clip=null", "optimizer.clip", None),
        ("model.remat=none", "model.remat", "none"),
        ("name=5", "name", "5"),
        ("name=none", "name", "none"),
        ("name=a=b c", "name", "a=b c"),
        ('name="5"', "name", "5"),
        ("name=", "name", ""),
        ("name=" + "[" * 100_000, "name", "[" * 100_000),
        ("shares=[1, 0.5]", "shares", (1.0, 0.5)),
        ("probe.type=lion", "probe", Lion()),
        ('corpora=[{"type": "file", "path": "x"}]', "corpora", (File(path="x"),)),
    ],
)
def test_override_converts_to_the_field(assignment, path, value):
    """Fails if text and JSON are told apart without looking at the field's type."""
    found = override(Run(), [assignment])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_a_switch_of_variant_keeps_what_was_set():
    """Fails if a set value is dropped, or the old variant's default replaces the new one's."""
    assert override(Run(), ["optimizer.type=lion"]).optimizer == Lion(rate=1e-4)
    assert (
        override(Run(optimizer=Adam(rate=0.5)), ["optimizer.type=lion"]).optimizer.rate == 0.5
    )
    assert (
        override(Run(optimizer=Adam(clip=1.0)), ["optimizer.type=adam"]).optimizer.clip == 1.0
    )
    named = Run(source=File(path="x"))
    assert override(named, ["source.type=file"]) == named
    assert override(named, ["source.type=web"]).source == Web(path="x")


def test_the_last_of_equal_paths_counts():
    assert override(Run(), ["tokens=1", "tokens=2"]).tokens == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "model.dept=6",
            "model.dept=6: no such field; did you mean model.depth? "
            "(fields of model: depth, width, remat)",
        ),
        (
            "optimizer.typ=lion",
            "did you mean optimizer.type? (fields of optimizer: type, rate,",
        ),
        ("optimizer.type=adamw", "one of adam, lion; did you mean adam?"),
        (
            "optimizer.sharp=true",
            "a field of lion only, and this is adam; add optimizer.type=lion",
        ),
        ("optimizer=lion", "write optimizer.type=, one of adam, lion; did you mean lion?"),
        ("probe.rate=1", "choose a variant: probe.type, one of adam, lion"),
        ("model.depth=0", "model.depth=0: must be >= 1"),
        ("model.width=12", "model.width=12: must be a multiple of 8"),
        ("model.depth=deep", "model.depth=deep: expected int >= 1"),
        ("model.depth=1.5", "model.depth=1.5: expected int >= 1"),
        ("model.depth=true", "expected int >= 1"),
        ("model.remat=ful", "model.remat=ful: must be one of none, full; did you mean full?"),
        ("depth=6", "depth=6: no such field; did you mean model.depth?"),
        ("model.depth.x=1", "model.depth is int >= 1, it has no fields"),
        ("optimizer.rate=nan", "optimizer.rate=nan: expected float > 0"),
        ("optimizer.rate=1e999", "optimizer.rate=1e999: expected float > 0"),
        ("optimizer.clip=-1", "optimizer.clip=-1: must be > 0.0"),
        ('corpora=[{"type": "file"}]', "corpora[0].path: missing, and it has no default"),
        ('corpora=[{"path": "x"}]', "corpora[0].type: missing; one of file, lion"),
        ('optimizer={"rate": 1}', "optimizer.type: missing; one of adam, lion"),
        ("model", "model: not an override; write field.path=value"),
        ("model..depth=1", "not an override"),
        ("a\nb=1", "a b=1: no such field (fields: model,"),
        ("cast=int4", "cast=int4: must be one of int8, none; did you mean int8?"),
        ("name=\udc80", "name='\\udc80': not Unicode text"),
        ("name=" + "x" * 999 + "\udc80", "..."),
    ],
)
def test_an_error_names_the_path_the_value_and_what_is_legal(assignment, message):
    """Fails if a check is left to msgspec, whose messages name neither fields nor variants."""
    found = error_of(override, Run(), [assignment])
    assert message in found
    assert len(found) < 200


@given(st.text(), st.text() | st.just("model.depth=") | st.just("optimizer.type="))
def test_any_text_is_an_override_or_an_error_of_one_line(text, prefix):
    """Fails if any exception but UserError escapes."""
    try:
        override(Run(), [prefix + text])
    except UserError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json: not JSON"),
        (b'"\xff"', "run.json: not JSON"),
        ("[" * 100_000, "run.json: not JSON"),
        ("[]", "run.json: expected an object of fields"),
        ('{"tokens": NaN}', "run.json: not JSON"),
        ('{"tokens": 0}', "run.json: tokens=0: must be >= 1"),
        ('{"tokens": "1"}', "run.json: tokens=1: expected int >= 1"),
        ('{"model": {"dept": 1}}', "run.json: model.dept=1: no such field; did you mean"),
        ('{"optimizer": {"type": "lion", "typ": 1}}', "did you mean optimizer.type?"),
        ('{"optimizer": {"type": 3}}', "run.json: optimizer.type=3: no such variant"),
    ],
)
def test_a_file_that_does_not_parse_is_named(text, message):
    assert message in error_of(parse, Run, text, "run.json")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run(tokens=0), "tokens=0: must be >= 1"),
        (Run(model=Model(depth="6")), "model.depth=6: expected int >= 1"),
        (Run(optimizer=Adam(rate=float("inf"))), "optimizer.rate=Infinity: must be finite"),
        (Run(shares=(0.1, float("nan"))), "shares=[0.1, NaN]: must be finite"),
        (
            Run(optimizer=File(path="x")),
            "optimizer.type=file: no such variant; one of adam, lion",
        ),
        (Run(name=object()), "Run: "),
    ],
)
def test_values_built_in_python_are_checked_too(run, message):
    """Fails if `validate_fields` trusts constructors, or `dump` writes null for infinity."""
    assert message in error_of(validate_fields, run)
    assert message in error_of(dump, run)


def test_help_lists_every_field_of_every_variant():
    """Fails if a variant, an optional struct, a list of structs or a text is left out."""
    lines = describe(Run).splitlines()
    assert max(map(len, lines)) <= 100
    paths = [line.split()[0] for line in lines]
    below = ["rate", "decay", "clip"], ["rate", "sharp"]
    variants = {
        "optimizer": {"adam": below[0], "lion": below[1]},
        "probe": {"adam": below[0], "lion": below[1]},
        "source": {"file": ["path"], "web": ["path"]},
        "corpora[]": {"file": ["path"], "lion": below[1]},
    }
    expected = ["model.depth", "model.width", "model.remat"]
    for name in Run.__struct_fields__[1:]:
        expected.append(name)
        for path, fields in variants.items():
            if path.removesuffix("[]") == name:
                for tag, names in fields.items():
                    expected += [f"{path}.type={tag}", *(f"{path}.{n}" for n in names)]
    assert paths == expected
    text = "\n".join(lines)
    for part in [
        "int >= 8, multiple of 8 = 64",
        "float >= 0, < 1 = 0.9",
        "none or full = none",
    ]:
        assert part in text
    for part in ["adam or lion or none = none", "layers", "By its sign", "how parameters move"]:
        assert part.lower() in text.lower()


def test_help_wraps_long_descriptions():
    """Fails if a cell is cut instead of wrapped."""

    class Long(Config):
        field: Annotated[int, Meta(description="word " * 60)] = 1

    lines = describe(Long).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(lines).count("word") == 60


class Even(Config, tag="even"):
    path: str | None
    n: int = 2

    def __post_init__(self):
        if self.n % 2:
            raise ValueError("n must be even")


class Odd(Config, tag="odd"):
    path: str | None


class Both(Config):
    part: Even | Odd = Even(path=None)


def test_a_struct_checks_its_own_fields_together():
    """Fails if what `__post_init__` says is lost, or comes without the path."""
    assert error_of(override, Both(), ["part.n=3"]) == "part: n must be even"


def test_a_field_without_default_survives_a_switch_of_variant():
    """Fails if null in a field that has no default is taken for its default."""
    assert override(Both(), ["part.type=odd"]).part == Odd(path=None)
