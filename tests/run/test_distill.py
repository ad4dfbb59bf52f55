"""`distill` by a server on loopback and by a model in JAX: what is kept, kills, faults, wrong use; SFT."""

import collections
import json
import shutil
from pathlib import Path

import pytest

from promptcot_jax.core import jsonl, manifest
from promptcot_jax.core.records import DistilledTrace
from promptcot_jax.data import packing, tasks, templates
from promptcot_jax.run import cli, stage
from promptcot_jax.verify import sandbox_host
from tests import toys
from tests.openai_server import Drop, Fail, Hang, OpenAIServer, Raw, Say
from tests.run import asking, killing, test_hosts

THINKING = "<think>\nLet me see.\n</think>\n\n"
TWICE = "print(2 * int(input()))"
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Of each prompt: what the teacher says.
REPLIES = {
    "a": f"{THINKING}It is \\boxed{{0.5}}.",
    "b": f"{THINKING}It is \\boxed{{7}}.",
    "c": f"{THINKING}It is four.",
    "d": Say(f"{THINKING}It is \\boxed{{4}}, or rath", "length"),
    "e": "Two and two.\n</think>\n\nIt is \\boxed{4}.",
    "p": f"{THINKING}```python\n{TWICE}\n```",
    "q": f"{THINKING}```python\nprint(3 * int(input()))\n```",
    "r": f"{THINKING}```python\nprint 2 * input()\n```",
    "s": f"{THINKING}```python\n{TWICE}\n```",
}
TESTS = [{"input": "1\n", "output": "2\n"}, {"input": "4\n", "output": "8\n"}]
ROWS = [
    {"id": "a", "problem": "What is a half?", "answer": "1/2"},
    {"id": "b", "problem": "What is two and two, in b?", "answer": "4"},
    {"id": "c", "problem": "What is two and two, in c?", "answer": "4"},
    {"id": "d", "problem": "What is two and two, in d?", "answer": "4"},
    {"id": "e", "problem": "What is two and two, in e?"},
    {"id": "p", "domain": "code", "problem": "Print twice the number, p.", "tests": TESTS},
    {"id": "q", "domain": "code", "problem": "Print twice the number, q.", "tests": TESTS},
    {"id": "r", "domain": "code", "problem": "Print twice the number, r.", "tests": TESTS},
    {"id": "s", "domain": "code", "problem": "Print twice the number, s."},
]
BY_PROBLEM = {row["problem"]: row["id"] for row in ROWS}


def id_of(body) -> str:
    return BY_PROBLEM[body["messages"][0]["content"].partition("\n\n")[0]]


def teach(body, attempt):
    return REPLIES[id_of(body)]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    jsonl.write_records(path, ROWS)
    return path


def command(server: OpenAIServer, workdir: Path, prompts: Path, *more: str) -> list[str]:
    return [
        "distill",
        "--gin_file=stages/distill.gin",
        f"--gin.PROMPTS='{prompts}'",
        "--gin.TEACHER='teacher'",
        f"--gin.BASE_URL='{server.base_url}'",
        "--gin.distill/endpoint.EndpointConfig.first_pause=0.01",
        "--gin.TRACES_HELDOUT_SHARE=0.0",
        f"--workdir={workdir}",
        *more,
    ]


def traces_of(workdir: Path, name: str = "sft_traces") -> dict[str, DistilledTrace]:
    return {trace.id: trace for trace in jsonl.read_records(workdir / f"{name}.jsonl", DistilledTrace)}


def reasons_of(workdir: Path) -> dict[tuple[str, int], str]:
    rows = jsonl.iter_rows(workdir / "distill" / "rejects.jsonl")
    return {(row["id"], row["sample"]): row["reason"] for *_, row in rows}


def test_what_has_a_box_or_a_program_is_kept_with_its_thinking_and_where_it_is_from(
    tmp_path: Path, prompts: Path
):
    run = tmp_path / "run"
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, run, prompts, "--gin.SEED=7")) == 0
        assert all(body["temperature"] == 1.0 and body["max_tokens"] == 16384 for body in server.asked)
    found = traces_of(run)
    assert list(found) == ["a-0", "b-0", "e-0", "p-0", "q-0", "s-0"]
    assert found["a-0"] == DistilledTrace(
        id="a-0",
        domain="math",
        prompt="What is a half?",
        completion=f"{THINKING}It is \\boxed{{0.5}}.",
        prompt_id="a",
        teacher="teacher",
        sample=0,
        seed=7,
        verified="unknown",
        completion_tokens=5,
    )
    assert found["e-0"].completion == "<think>\nTwo and two.\n</think>\n\nIt is \\boxed{4}."
    assert reasons_of(run) == {("c", 0): "no_answer", ("d", 0): "length", ("r", 0): "syntax_error"}
    counts = manifest.read(run)["distill"].counts
    assert (counts["in"], counts["out"], counts["with_thinking"]) == (9, 6, 6)
    assert counts["in"] == counts["out"] + sum(n for name, n in counts.items() if "dropped_" in name)
    report = json.loads((run / "distill" / "report.json").read_text())
    assert report["rejected_by_reason"] == {"length": 1, "no_answer": 1, "syntax_error": 1}
    assert report["replies"] == {"stop": 8, "length": 1, "prompt_tokens": 90, "completion_tokens": 45}
    assert report["traces"]["out_code"] == 3
    assert report["tokens_of_a_trace"]["mean"] == 5.0


def test_only_what_its_prompt_says_is_right_stays_and_prompts_that_say_nothing_are_not_asked(
    tmp_path: Path, prompts: Path
):
    run = tmp_path / "run"
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, run, prompts, "--gin.VERIFICATION='only'")) == 0
        assert not {"e", "s"} & {id_of(body) for body in server.asked}
    assert {name: trace.verified for name, trace in traces_of(run).items()} == {"a-0": "yes", "p-0": "yes"}
    assert reasons_of(run) == {
        ("b", 0): "mismatch",
        ("c", 0): "no_answer",
        ("d", 0): "length",
        ("e", -1): "nothing_to_verify_by",
        ("q", 0): "wrong_answer",
        ("r", 0): "syntax_error",
        ("s", -1): "nothing_to_verify_by",
    }
    # What was paid is there when the set is made again, with all traces and what is known of each.
    for name in ("sft_traces.jsonl", "sft_traces_heldout.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "distill")
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, run, prompts, "--gin.VERIFICATION='flag'")) == 0
        assert {id_of(body) for body in server.asked} == {"e", "s"}
    assert {name: trace.verified for name, trace in traces_of(run).items()} == {
        "a-0": "yes",
        "b-0": "no",
        "e-0": "unknown",
        "p-0": "yes",
        "q-0": "no",
        "s-0": "unknown",
    }


def test_of_several_samples_the_first_right_ones_stay(tmp_path: Path, prompts: Path):
    answers = ["5", "4", "4.", "4.0", "2+2"]
    numbers = collections.defaultdict(dict)  # of each prompt: seed of a request -> its number

    def teach_again(body, attempt):
        own = numbers[id_of(body)]
        number = own.setdefault(body["seed"], len(own))
        return f"It is \\boxed{{{answers[number]}}}."

    jsonl.write_records(prompts, [row for row in ROWS if row["id"] in ("b", "e")])
    run = tmp_path / "run"
    more = (
        "--gin.DISTILL_GROUP_SIZE=5",
        "--gin.MAX_TRACES=2",
        "--gin.VERIFICATION='flag'",
        "--gin.CONCURRENCY=1",
    )
    with OpenAIServer(teach_again) as server:
        assert cli.main(command(server, run, prompts, *more)) == 0
    assert {name: trace.verified for name, trace in traces_of(run).items()} == {
        "b-0": "no",
        "b-1": "yes",
        "e-0": "unknown",
        "e-1": "unknown",
    }
    assert collections.Counter(reasons_of(run).values()) == {"spare": 6}
    with OpenAIServer(teach_again) as server:
        numbers.clear()
        more = (*more, "--gin.VERIFICATION='only'")
        assert cli.main(command(server, tmp_path / "only", prompts, *more)) == 0
    assert list(traces_of(tmp_path / "only")) == ["b-1", "b-2"]
    assert reasons_of(tmp_path / "only")["b", 0] == "mismatch"


def test_repeated_prompts_and_texts_and_what_overlaps_with_a_benchmark_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = "the small red boat sails around seven blue islands before it finally comes home"
    monkeypatch.setitem(BY_PROBLEM, f"Where is {words}?", "a")
    rows = [
        {"id": "b", "problem": ROWS[1]["problem"]},
        {"id": "again", "problem": f" {ROWS[1]['problem']}\n"},
        {"id": "known", "problem": f"Where is {words}?"},
    ]
    jsonl.write_records(tmp_path / "rows.jsonl", rows)
    jsonl.write_records(tmp_path / "test.jsonl", [{"id": "t0", "problem": f"Say how {words}."}])
    more = (f"--gin.TRACE_BENCHMARKS={{'test': '{tmp_path / 'test.jsonl'}'}}", "--gin.DISTILL_GROUP_SIZE=2")
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, tmp_path / "run", tmp_path / "rows.jsonl", *more)) == 0
        assert {id_of(body) for body in server.asked} == {"b"}
    assert list(traces_of(tmp_path / "run")) == ["b-0"]
    assert reasons_of(tmp_path / "run") == {
        ("b", 1): "repeated_trace",
        ("again", -1): "repeated_prompt",
        ("known", -1): "contaminated",
    }


def test_where_no_prompt_is_worth_asking_nobody_is_asked(tmp_path: Path, prompts: Path):
    jsonl.write_records(prompts, [ROWS[4], ROWS[8]])
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, tmp_path / "run", prompts, "--gin.VERIFICATION='only'")) == 0
        assert not server.asked
    assert not traces_of(tmp_path / "run")
    counts = manifest.read(tmp_path / "run")["distill"].counts
    assert (counts["in"], counts["out"], counts["dropped_nothing_to_verify_by"]) == (2, 0, 2)


def test_the_scripts_rules_leave_out_prompts_and_traces(tmp_path: Path, prompts: Path):
    jsonl.write_records(prompts, [ROWS[0], ROWS[1] | {"answer": "0"}, ROWS[4]])
    plays = {"a": "It is \\boxed{0.5}."}
    with OpenAIServer(lambda body, attempt: plays.get(id_of(body)) or teach(body, attempt)) as server:
        assert cli.main(command(server, tmp_path / "run", prompts, "--gin.VALIDITY='release'")) == 0
    assert list(traces_of(tmp_path / "run")) == ["e-0"]
    assert reasons_of(tmp_path / "run") == {
        ("a", 0): "not_one_thinking_block",
        ("b", -1): "guessable_answer",
    }


def test_a_server_that_misbehaves_loses_nothing_and_is_paid_once(tmp_path: Path, prompts: Path):
    plays = {"a": Fail(429, retry_after="0"), "b": Hang(3.0), "p": Drop(), "q": Raw(b'{"choices": [{')}
    for_good = {"c": Raw(b"<html>"), "e": Say(None, "content_filter")}

    def misbehaving(body, attempt):
        name = id_of(body)
        if name in for_good:
            return for_good[name]
        return plays[name] if attempt < 2 and name in plays else teach(body, attempt)

    run = tmp_path / "run"
    with OpenAIServer(misbehaving) as server:
        arguments = command(server, run, prompts, "--gin.distill/endpoint.EndpointConfig.attempt_seconds=2.0")
        assert cli.main(arguments) == 0
        assert max(server.served.values()) == 1
        assert cli.main(arguments) == 0  # done already
        assert max(server.served.values()) == 1
    assert list(traces_of(run)) == ["a-0", "b-0", "p-0", "q-0", "s-0"]
    found = reasons_of(run)
    assert (found["c", 0], found["d", 0], found["e", 0]) == ("malformed", "length", "filtered")


def test_a_run_that_failed_goes_on_with_what_it_has_not(tmp_path: Path, prompts: Path):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"

    def half(body, attempt):
        return Fail(401) if id_of(body) > "d" else teach(body, attempt)

    with OpenAIServer(half) as server:
        assert cli.main(command(server, run, prompts, "--gin.CONCURRENCY=1")) == 2
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, run, prompts)) == 0
        assert {id_of(body) for body in server.asked} == {"e", "p", "q", "r", "s"}
        assert cli.main(command(server, undisturbed, prompts)) == 0
    killing.assert_same_outcome(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["replies", "distill/grades-00000-of-*.jsonl", "distill/rejects.jsonl"])
def test_killed_it_goes_on_and_ends_in_the_bytes_of_an_undisturbed_run(tmp_path: Path, where: str):
    """Killed when all replies but those that hang are on disk, among the grades, or before the traces."""
    hangs = True
    rows = [
        {"id": f"m{i}", "problem": f"What is {i} and one?", "answer": str(i + (i % 5 > 0))}
        for i in range(120)
    ]
    rows += [ROWS[5] | {"id": f"c{i}", "problem": f"Print twice the number, {i}."} for i in range(24)]
    by_problem = {row["problem"]: row for row in rows}
    jsonl.write_records(tmp_path / "rows.jsonl", rows)

    def held_up(body, attempt):
        row = by_problem[body["messages"][0]["content"].partition("\n\n")[0]]
        number = int(row["id"][1:])
        if hangs and where == "replies" and number % 8 == 7:
            return Hang(60)
        if row["id"].startswith("m"):
            return f"{THINKING}It is \\boxed{{{number + 1}}}."
        return REPLIES["p" if number % 3 else "q"]

    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    more = ("--gin.VERIFICATION='only'", "--gin.CONCURRENCY=32", "--gin.TRACES_HELDOUT_SHARE=0.2")
    with OpenAIServer(held_up) as server:
        arguments = command(server, killed, tmp_path / "rows.jsonl", *more)
        if where == "replies":
            killing.kill_at_replies(arguments, killed, len(rows) - 15 - 3)
        else:
            killing.kill_when(arguments, killed, where)
        hangs = False
        killing.run_to_end(arguments)
        assert sum(server.served.values()) == len(rows)
        killing.run_to_end(command(server, undisturbed, tmp_path / "rows.jsonl", *more))
    killing.assert_same_outcome(killed, undisturbed)
    kept = traces_of(killed) | traces_of(killed, "sft_traces_heldout")
    assert len(kept) == 96 + 16
    assert 10 < len(traces_of(killed, "sft_traces_heldout")) < 40


@pytest.mark.slow
def test_of_two_hosts_the_first_alone_asks_and_grades(tmp_path: Path, prompts: Path):
    with OpenAIServer(teach) as server:
        arguments = command(server, tmp_path / "two", prompts, "--gin.VERIFICATION='flag'")
        assert len(test_hosts.run_hosts(arguments)) == 2
        assert len(server.asked) == len(ROWS)
        arguments = command(server, tmp_path / "one", prompts, "--gin.VERIFICATION='flag'")
        assert cli.main(arguments) == 0
    killing.assert_same_outcome(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gin.PROMPTS='nowhere.jsonl'"], "nowhere.jsonl: no such file"),
        (["--gin.PROMPTS='{tmp}/question.jsonl'"], "question.jsonl:1: field 'problem' of"),
        (["--gin.PROMPTS='{tmp}/empty.jsonl'"], "empty.jsonl:1: the problem is empty"),
        (["--gin.PROMPTS='{tmp}/none.jsonl'"], "none.jsonl: there are no problems in it"),
        (["--gin.TEACHER=%gin.REQUIRED"], "not set, though required: TEACHER"),
        (["--gin.TEACHER='stranger'"], "EndpointConfig.model='stranger' must be a model of this server"),
        (["--gin.API_KEY_VARIABLE='NO_SUCH_KEY'"], "api_key_variable names NO_SUCH_KEY, which is not set"),
        (["--gin.COST_LIMIT=0.01", "--gin.COMPLETION_PRICE=1.0"], "EndpointConfig.cost_limit is 0.01"),
        (["--gin.DISTILLED_BY=@distill/text_models.JaxModel()"], "teacher"),
        (["--gin.TRACE_BENCHMARKS={'t': 'nowhere.jsonl'}"], "nowhere.jsonl: no such file"),
        (["--gin.DISTILL_GROUP_SIZE=0"], "group_size must be at least 1"),
        (["--gin.DISTILL_GROUP_SIZE=2", "--gin.TRACE_TEMPERATURE=0.0"], "raise TRACE_TEMPERATURE"),
        (["--gin.MAX_TRACES=0"], "max_traces must be at least 1"),
        (["--gin.VALIDITY='strict'"], "validity"),
        (["--gin.VERIFICATION=True"], "verification"),
        (["--gin.TRACES_HELDOUT_SHARE=1.0"], "heldout_share must lie in [0, 1)"),
    ],
)
def test_wrong_use_is_one_sentence_that_names_the_setting(
    tmp_path: Path, prompts: Path, more: list[str], message: str, capsys, monkeypatch
):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    files = {"question": '{"question": "x"}\n', "empty": '{"problem": " "}\n', "none": ""}
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    with OpenAIServer(asking.knowing_no_stranger(teach)) as server:
        sentence = asking.refusal(command(server, tmp_path / "run", prompts), more, tmp_path, capsys)
        assert not server.served
    assert message in sentence
    assert not (tmp_path / "run" / "sft_traces.jsonl").exists()


def test_without_a_sandbox_only_what_must_run_is_refused_and_before_anything_is_paid(
    tmp_path: Path, prompts: Path, capsys, monkeypatch
):
    monkeypatch.setattr(sandbox_host, "_working_host", lambda *, is_weak: (None, ["bwrap: no permission"]))
    with OpenAIServer(teach) as server:
        arguments = command(server, tmp_path / "run", prompts)
        assert cli.main([*arguments, "--gin.VERIFICATION='only'"]) == 2
        assert not server.asked
        assert "allow_weak_sandbox" in capsys.readouterr().err.splitlines()[-1]
        arguments = command(server, tmp_path / "other", prompts)
        assert cli.main(arguments) == 0


@pytest.mark.slow
def test_a_model_in_jax_teaches(tmp_path: Path, prompts: Path):
    """A toy of random weights: nothing that it writes is a trace, unless everything is."""
    toy = asking.save_toy(tmp_path / "toy")
    bindings = (
        f"PROMPTS='{prompts}'",
        f"TEACHER='{toy}'",
        "DISTILLED_BY=@distill/text_models.JaxModel()",
        "MAX_TRACE_TOKENS=8",
        "NUM_SLOTS=4",
    )
    for name in ("one", "other"):
        stage.run_stage("distill", ("stages/distill.gin",), bindings, str(tmp_path / name))
    assert set(reasons_of(tmp_path / "one").values()) <= {"length", "no_answer", "empty"}
    assert len(reasons_of(tmp_path / "one")) == len(ROWS)
    killing.assert_same_outcome(tmp_path / "one", tmp_path / "other")
    assert manifest.read(tmp_path / "one")["distill"].inputs[toy] != "none"


def test_sft_reads_the_prompt_as_the_teacher_did_and_trains_on_thinking_and_answer(tmp_path: Path):
    """Sums through a server, then `promptcot sft` on what came of it."""
    rows = [
        {"id": f"p{i}", "problem": f"Amara has {i} beads and buys 3. How many?", "answer": str(i + 3)}
        for i in range(8)
    ]
    jsonl.write_records(tmp_path / "rows.jsonl", rows)
    by_problem = {row["problem"]: row for row in rows}

    def solve(body, attempt):
        row = by_problem[body["messages"][0]["content"].partition("\n\n")[0]]
        return f"<think>\nAdd 3.\n</think>\n\nIt is \\boxed{{{row['answer']}}}."

    run = tmp_path / "run"
    with OpenAIServer(solve) as server:
        more = ("--gin.VERIFICATION='only'", "--gin.TRACES_HELDOUT_SHARE=0.3")
        assert cli.main(command(server, run, tmp_path / "rows.jsonl", *more)) == 0
        asked = {body["messages"][0]["content"] for body in server.asked}
    found, held_out = traces_of(run), traces_of(run, "sft_traces_heldout")
    assert len(found) + len(held_out) == 8
    assert found
    assert held_out

    tokenizer = toys.byte_tokenizer(CHAT)
    counts = collections.Counter()
    batches = tasks.iter_token_examples(
        tasks.task_named("sft_traces"),
        run / "sft_traces.jsonl",
        tokenizer,
        tasks.NO_RULES,
        counts=counts,
    )
    examples = [example for batch in batches for example in batch]
    packed = packing.pack_rows([[example] for example in examples], num_rows=len(found), row_length=512)
    for row, trace in enumerate(found.values()):
        asked_for = templates.solver_prompt(trace.prompt, "math").strip()
        assert asked_for in asked
        ids, is_trained = packed.token_ids[row], packed.loss_mask[row]
        assert tokenizer.decode(ids[is_trained]) == f"{trace.completion}<|endoftext|>"
        assert trace.completion.startswith("<think>\nAdd 3.\n</think>\n\nIt is \\boxed{")
        not_trained = ids[(packed.segment_ids[row] > 0) & ~is_trained]
        assert tokenizer.decode(not_trained) == f"<user>{asked_for}</user><assistant>"

    tokenizer.save(run / "tokenizer")
    bindings = (
        "VOCAB_SIZE=262",
        "SOLVED='{workdir}/sft_traces.jsonl'",
        "SOLVED_HELDOUT='{workdir}/sft_traces_heldout.jsonl'",
        "SFT_ROW_LENGTH=512",
        "SFT_BATCH=2",
        "SFT_EPOCHS=2",
    )
    files = ("stages/corpus.gin", "stages/sft.gin", "models/tiny.gin")
    stage.run_stage("sft", files, bindings, str(run))
    counts = manifest.read(run)["sft"].counts
    assert counts["in"] == counts["out"] == len(found)
    assert counts["heldout_kept"] == len(held_out)
    assert counts["steps"] > 1
