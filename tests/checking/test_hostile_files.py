"""Plans and profiles are files from strangers: whatever they hold, no word of it becomes code of its own."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placed_worlds import NAMES, nets, place, ways_on_a_gpu
from profile_worlds import sdxl_model_offload

from profiler.checking.code_words import is_advice, is_name, quoted
from profiler.errors import InputError
from profiler.placements.grouped import Grouped
from profiler.placements.sequential import Sequential
from profiler.placements.streamed import Streamed
from profiler.planning import Plan
from profiler.planning.plan import PlannedCall
from profiler.planning.replaying.uses import Use
from profiler.record import settings as kinds
from profiler.record.events import Event
from profiler.record.profile import CallSignature, Condition, Failure, PeakItem, Profile
from profiler.record.settings import Setting

SETTINGS = tuple(
    Setting(what=what, component=component, value=value)
    for what, component, value in (
        (kinds.VAE_TILING, "vae", {"tile_sample_min_size": 64}),
        (kinds.VAE_SLICING, "vae", True),
        (
            kinds.LAYERWISE_CASTING,
            "transformer",
            {"storage": "float8_e4m3fn", "compute": "float16"},
        ),
        (kinds.ATTENTION_SLICING, "transformer", 2),
        (kinds.ATTENTION_BACKEND, "transformer", "flash"),
        (kinds.ATTENTION_PROCESSOR, "transformer", "AttnProcessor"),
        (kinds.DISABLED_ATTENTION, "", ["flash"]),
        (kinds.FUSED_QKV, "transformer", True),
        (kinds.MEMORY_FORMAT, "vae", "channels_last"),
        (kinds.CACHE, "transformer", "FirstBlockCacheConfig"),
        (kinds.ADAPTERS, "transformer", ["mine"]),
        (kinds.GROUP_OFFLOAD, "transformer", {"type": "leaf_level", "stream": True}),
        (kinds.ENVIRONMENT, "", {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
    )
)
CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
INJECTED = (
    'vae"; __import__("os").system("touch ran"); "',
    "vae'; __import__('os').system('touch ran'); '",
    'vae.x(__import__("os"))',
    "vae\n__import__('os').system('touch ran')\n",
    "vae\\",
    "lambda",
    "ﬁle",
    "{0.__class__}",
    "vae\u2028x",
    "[/]\x1b[31m",
    "",
)
VALUES = (
    *INJECTED,
    *(None, True, False, -1, 0, 1.5, 10**400, float("nan"), float("inf"), 1e308),
    *([], {}, ["a"], {"a": 1}, [[["a"]]], [1, 2, 3, 4], "transformer", "offload", "drop"),
)


@pytest.fixture(scope="module")
def plain() -> Plan:
    """A plan with a value in every place that a plan has."""
    inside = {
        "encoder": Grouped(blocks=2, disk=True),
        "vae": Sequential(),
        "transformer": Streamed(1),
    }
    pipe = nets()
    plan = place(
        pipe,
        sequence=["transformer"],
        sticky=True,
        swaps={"transformer": "pinned"},
        inside=inside,
        modifiers=("fp8", "vae-tiling"),
    )
    other = place(pipe, sequence=NAMES, sticky=True, swaps=dict.fromkeys(NAMES, "drop"))
    one = dataclasses.replace(
        plan.stock, sequence=other.sequence, swaps=other.swaps, inside=plan.inside
    )
    calls = [
        PlannedCall(
            pipeline_class=name,
            call={"prompt": "a cat"},
            weight=1,
            h2d_weight_bytes=0,
            d2h_weight_bytes=0,
        )
        for name in ("NetPipeline", "NetImg2ImgPipeline")
    ]
    return dataclasses.replace(
        plan,
        runner_up=one,
        front=(one,),
        immovable=("encoder",),
        moves=(("onload", "vae", 3),),
        model="some/model",
        call={"prompt": "a cat", "sizes": [1, 2]},
        gpu="rtx-4090",
        dtype="bfloat16",
        quantization={"transformer": "bnb-nf4"},
        uses=(Use(component="vae", weight_bytes=1, other_bytes=2, within=("encoder",)),),
        signatures=tuple(calls),
        dtypes={"vae": "float32"},
        other_dtypes={"vae": "float32"},
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def known(plain) -> set[str]:
    """What code of plans calls and names, whatever their placements."""
    plans = [plain, *(place(nets(), **scheme) for _, scheme in ways_on_a_gpu(nets()))]
    return set().union(*(words_of(plan.to_code()) for plan in plans))


def words_of(code: str) -> set[str]:
    """Return the functions that `code` calls, and what it imports."""
    words = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            words.add(
                node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            )
        elif isinstance(node, ast.Import | ast.ImportFrom):
            words.add(ast.unparse(node))
    return words


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything within plain data."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))][
        0 if path else 1 :
    ]


def changed(draw: Any, tree: Any) -> Any:
    """Return plain data with a value or a key somewhere in it replaced, or one left out."""
    tree = copy.deepcopy(tree)
    *way, last = draw(st.sampled_from(places(tree)))
    holder = tree
    for key in way:
        holder = holder[key]
    what = draw(st.sampled_from(("value", "value", "key", "gone")))
    if what == "value":
        holder[last] = draw(st.sampled_from(VALUES))
    elif what == "key" and isinstance(holder, dict):
        holder[draw(st.sampled_from(INJECTED))] = holder.pop(last)
    else:
        del holder[last]
    return tree


def refused(load: Any, path: Path) -> str | None:
    """Return the complaint about a file, which is one line that names it; None if it loads."""
    complaint = None
    try:
        load(path)
    except InputError as error:
        complaint = str(error)
    assert complaint is None or (str(path) in complaint and "\n" not in complaint)
    return complaint


@pytest.mark.parametrize(
    ("holder", "name"),
    [("margin", "budget_bytes"), ("predicted", "device_bytes"), ("smallest", "weight_bytes")],
)
def test_less_than_no_bytes_are_refused(tmp_path, plain, holder, name):
    path = tmp_path / "plan.json"
    plain.save(path)
    record = json.loads(path.read_text())
    record[holder][name] = -1
    path.write_text(json.dumps(record))
    assert f"({holder}.{name} is -1, less than no bytes)" in refused(Plan.load, path)


@settings(max_examples=150, deadline=None, suppress_health_check=CHECKS)
@given(st.data())
def test_a_changed_plan_is_refused_or_harmless(tmp_path, plain, known, data):
    path = tmp_path / "plan.json"
    plain.save(path)
    path.write_text(json.dumps(changed(data.draw, json.loads(path.read_text()))))
    if refused(Plan.load, path) is not None:
        return
    plan = Plan.load(path)
    assert words_of(plan.to_code()) <= known
    for shown in (plan.to_text(), repr(plan)):
        assert re.findall(r"[^\n\x20-\x7e\xa0-\u2027\u202f-\uffff]", shown) == []
    assert "<script" not in plan._repr_html_()


def test_no_text_of_a_plan_is_shown_as_it_is(plain):
    """Wherever a text may stand; a line separator splits lines in some terminals and editors."""
    texts = [
        one.name for one in dataclasses.fields(plain) if isinstance(getattr(plain, one.name), str)
    ]
    assert {"model", "gpu", "dtype"} <= set(texts)
    for name in texts:
        shown = dataclasses.replace(plain, **{name: "vae\u2028x"}).to_text()
        assert "\u2028" not in shown, name


@pytest.mark.parametrize("text", INJECTED)
def test_a_plan_in_memory_becomes_no_code_of_its_own_either(plain, text):
    for change in ({"sequence": (text,)}, {"pipeline_class": text}, {"inside": {text: {}}}):
        with pytest.raises(InputError, match="cannot be written as code"):
            dataclasses.replace(plain, **change).to_code()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Any, Any]:
    """A saved profile that ran out of memory, with everything in it that a finding repeats: its table and header."""
    profile = sdxl_model_offload(steps=2)
    name = profile.components[-1].name
    failure = Failure(
        component=name,
        doing="decode",
        phase="decode",
        step=-1,
        ordinal=3,
        out_of_memory=True,
        requested_bytes=1,
        free_bytes=0,
        holders=(PeakItem(holder=name, what="weights", bytes=1),),
        remedy="A plan would have fitted.",
        remedy_code='pipe.to("cuda")',
    )
    conditions = [
        Condition(what=what, component=name, detail="x")
        for what in ("shared_exclusions", "shared_file", "layerwise_casting", "mode", "binned_size")
    ]
    profile = dataclasses.replace(
        profile,
        complete=False,
        error="out of memory",
        failure=failure,
        conditions=tuple(conditions),
        quantization={name: "bnb-nf4"},
        signatures=(CallSignature(pipeline_class="A", call={"height": 1}),),
        settings=SETTINGS,
    )
    path = tmp_path_factory.mktemp("recorded") / "p.parquet"
    profile.save(path)
    table = pq.read_table(path)
    return table, json.loads(table.schema.metadata[b"vram_profiler"])


@settings(max_examples=80, deadline=None, suppress_health_check=CHECKS)
@given(st.data())
def test_a_changed_profile_is_refused_or_harmless(tmp_path, recorded, data):
    table, header = recorded
    path = tmp_path / "p.parquet"
    if data.draw(st.booleans()):
        header = changed(data.draw, header)
    else:
        table = strange_column(data.draw, table)
    metadata = {b"vram_profiler": json.dumps(header).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    if refused(Profile.load, path) is None:
        for finding in Profile.load(path).findings:
            assert is_advice(finding.fix.partition("  #")[0]) or prose(finding.fix)


def prose(fix: str) -> bool:
    """Tell whether a fix is no code and holds nothing of what was injected."""
    try:
        return not any(isinstance(node, ast.Call) for node in ast.walk(ast.parse(fix)))
    except SyntaxError:
        return not any(text and text in fix for text in INJECTED)


def strange_column(draw: Any, table: Any) -> Any:
    name = draw(st.sampled_from(Event._fields))
    place = table.column_names.index(name)
    values = table.column(name).to_pylist()
    values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from((*INJECTED, None, 1.5, 7)))
    try:
        return table.set_column(place, name, [values])
    except (TypeError, ValueError):  # no column of one type
        return table.remove_column(place)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("", True),
        ('pipe.to("cuda")', True),
        ('pipe.model_cpu_offload_seq = "a->b"; pipe.enable_model_cpu_offload()', True),
        ('pipe.enable_group_offload(onload_device=torch.device("cuda"), use_stream=True)', True),
        ("vram plan './a b' --budget 8GiB --code", True),
        ("vram plan x --code; rm -rf .", False),
        ("vram plan $(touch ran)", False),
        ("vram plan x\nrm -rf .", False),
        ('import os; os.system("x")', False),
        ('pipe.to(__import__("os").system("x"))', False),
        ('pipe.to("cuda").__class__.mro()', False),
        ("exec('x')", False),
        ("pipe.__class__ = profiler", False),
        ("[pipe.to(x) for x in torch]", False),
    ],
)
def test_advice_is_what_this_package_writes(line, written):
    assert is_advice(line) == written


@pytest.mark.parametrize("text", [*INJECTED, "unet", "a'b", 'a"b', "a'\"b"])
def test_quoted_text_is_that_text(text):
    assert ast.literal_eval(quoted(text)) == text
    assert is_name(text) == (text == "unet")
