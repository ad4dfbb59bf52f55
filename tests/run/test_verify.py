"""`verify` by a server on loopback and by a model in JAX: kills, faults, wrong use, real programs."""

import ast
import json
import shutil
import types
from pathlib import Path

import pytest

from promptcot_jax.core import jsonl, manifest, records
from promptcot_jax.run import cli, stage
from promptcot_jax.synthesis import judging
from promptcot_jax.verify import program_pool, programs, sandbox_host
from tests import toys
from tests.openai_server import Drop, Fail, Hang, OpenAIServer, Raw, Say
from tests.run import asking, killing, test_hosts

MBPP = toys.SHARED / "data" / "code" / "mbpp_train.jsonl"
GIN = "--gin_file=stages/verify_endpoints.gin"
LINEAGE = {
    "rationale": "Ask for a sum.",
    "log_p_z": -3.5,
    "log_p_x": -2.25,
    "model_digest": "abc",
    "round_index": 2,
    "seed": 7,
    "sample": 3,
}


def problem_of(body) -> str:
    """The problem that a request is about."""
    text = body["messages"][0]["content"]
    for heading in ("Problem:\n", "Task:\n"):
        text = text.partition(heading)[2] or text
    return text.partition("\n\n")[0]


def kind_of(body) -> str:
    """Which of the requests it is."""
    text = body["messages"][0]["content"]
    kinds = {"You review": "judge", "Write a Python program that makes": "maker"}
    kinds |= {"Write a Python program that checks": "validator", "inputs to test a program": "inputs"}
    return next((kind for words, kind in kinds.items() if words in text), "solver")


def fenced(program: str) -> str:
    return f"Here it is.\n```python\n{program}\n```"


def verdict(**faults: bool) -> str:
    found = dict.fromkeys(judging.CRITERIA, True) | faults
    return f"I have read it.\n```json\n{json.dumps(found)}\n```"


SUM = "n = int(input())\ntotal = 0\nfor i in range(1, n + 1):\n    total += i\nprint(total)"
SAME_SUM = "n = int(input())\nprint(n * (n + 1) // 2)"
OTHER = "n = int(input())\nprint(n * n // 2)"
VALIDATOR = "text = input()\nprint('VALID' if text.isdigit() and 0 <= int(text) <= 50 else 'INVALID')"


def help_out(body, attempt):
    """A server that solves sums, rightly but for two samples in eight, and judges and tests them."""
    problem, kind, seed = problem_of(body), kind_of(body), body["seed"]
    if kind == "judge":
        return verdict(unique_answer="doubtful" not in problem)
    if kind == "inputs":
        return f"```json\n{json.dumps(['1', '5', '90', '12', 'x'])}\n```"
    if kind == "maker":
        return fenced("import random\nrandom.seed(int(input()))\nprint(random.randint(20, 40))")
    if kind == "validator":
        return fenced(VALIDATOR)
    if "program" in body["messages"][0]["content"]:
        return fenced((SUM, SAME_SUM, OTHER)[seed % 3 if seed % 4 == 0 else seed % 2])
    a, b = (int(word) for word in problem.rstrip("?.").split() if word.isdigit())
    return f"It is \\boxed{{{a + b if seed % 4 else a}}}."


def command(server: OpenAIServer, workdir: Path, problems: Path, *more: str) -> list[str]:
    return [
        "verify",
        GIN,
        f"--gin.VERIFY_PROBLEMS='{problems}'",
        "--gin.VOTER='solver'",
        "--gin.JUDGE='judge'",
        f"--gin.BASE_URL='{server.base_url}'",
        "--gin.verify/endpoint.EndpointConfig.first_pause=0.01",
        f"--workdir={workdir}",
        *more,
    ]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Eleven sums, of which four are faulty, and two programs."""
    path = tmp_path / "problems.jsonl"
    lines = [
        {"id": f"p{i}", "problem": f"Amara has {i} beads and buys {i + 2} more. How many are there?"}
        for i in range(10)
    ]
    lines[3]["problem"] += " How many did she buy?"
    lines[4]["problem"] = lines[4]["problem"].replace(
        "How many are there?", "See the figure below. How many?"
    )
    lines[5]["problem"] = lines[5]["problem"].replace("beads", "beads or so, which is doubtful,")
    lines[6] |= {"answer": "5"}
    lines[7] |= {"answer": "16.0"}
    text = "Read n (0 <= n <= 50). Print the sum of the whole numbers from 1 to n."
    lines += [
        {"id": "c0", "domain": "code", "problem": text},
        {"id": "c1", "domain": "code", "problem": f"{text} Mind the limits."},
    ]
    common = {"concepts": ["sums"], "level": "2"} | LINEAGE
    jsonl.write_records(path, [common | line for line in lines])
    return path


def rejects_of(workdir: Path) -> dict[str, types.SimpleNamespace]:
    rows = jsonl.iter_rows(workdir / "verify" / "rejects.jsonl")
    return {row["id"]: types.SimpleNamespace(**row) for *_, row in rows}


def prompts_of(workdir: Path) -> dict:
    either = records.VerifiedMathPrompt | records.VerifiedProgramPrompt
    return {row.id: row for row in jsonl.read_records(workdir / "verified_prompts.jsonl", either)}


def test_what_passes_has_votes_or_tests_and_its_lineage_and_what_does_not_a_reason(
    tmp_path: Path, problems: Path
):
    with OpenAIServer(help_out) as server:
        assert cli.main(command(server, tmp_path / "run", problems)) == 0
    prompts, rejects = prompts_of(tmp_path / "run"), rejects_of(tmp_path / "run")
    assert {name: (reject.check, reject.reason) for name, reject in rejects.items()} == {
        "p3": ("statement", "several_questions"),
        "p4": ("statement", "missing_figure"),
        "p5": ("judge", "unique_answer"),
        "p6": ("votes", "given_answer_outvoted"),
    }
    assert list(prompts) == ["p0", "p1", "p2", "p7", "p8", "p9", "c0", "c1"]
    for prompt in prompts.values():
        assert {name: getattr(prompt, name) for name in LINEAGE} == LINEAGE
        assert (prompt.concepts, prompt.level, prompt.solver) == (("sums",), "2", "solver")
        assert prompt.checks[:2] == ("statement", "judge")
    math = prompts["p8"]
    assert (math.answer, math.num_solutions, math.mean_tokens) == ("18", 8, 5.0)
    assert sum(len(group.samples) for group in math.votes) == 8
    assert math.agreement == math.pass_share == len(math.votes[0].samples) / 8
    assert (math.agreement, math.pool) == (0.625, "hard")
    code = prompts["c0"]
    assert len(code.tests) == len(code.test_agreements) >= 4
    for test in code.tests:
        assert int(test.output) == int(test.input) * (int(test.input) + 1) // 2
    assert not any(test.input in ("90\n", "x\n") for test in code.tests)  # the validator refuses them
    assert code.solution.strip() in (SUM, SAME_SUM)
    assert code.kill_rate > 0.7
    assert code.num_mutants > 5
    assert code.agreement == code.pass_share == min(code.test_agreements) < 1.0
    counts = manifest.read(tmp_path / "run")["verify"].counts
    assert counts["in"] == 12 == counts["out"] + sum(n for name, n in counts.items() if "dropped_" in name)
    assert (counts["out_math"], counts["out_code"]) == (6, 2)
    report = json.loads((tmp_path / "run" / "verify" / "report.json").read_text())
    assert report["judge"]["agreement"]["well_posed"] == {"compared": 10, "equal_share": 1.0, "kappa": 1.0}
    assert report["tests"]["solutions"]["disagrees"] == 16 * (1 - code.pass_share)
    rows = {row["id"]: row for _, _, row in jsonl.iter_rows(tmp_path / "run" / "verified_prompts.jsonl")}
    assert rows["p7"]["given_answer"] == "16.0"
    assert rows["p7"]["answer"] == "16"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["judge", "solver", "inputs", "validator"])
def test_killed_in_a_phase_and_gone_on_it_ends_in_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, problems: Path, kind: str
):
    """Killed when all replies but those that hang are on disk."""
    hangs = True

    def held_up(body, attempt):
        last = "limits" in problem_of(body) if kind != "judge" else " 9 beads" in problem_of(body)
        return Hang(60) if hangs and kind_of(body) == kind and last else help_out(body, attempt)

    before = {"judge": 18, "solver": 20 + 64, "inputs": 20 + 72 + 2, "validator": 20 + 72 + 4 + 2 + 1}[kind]
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with OpenAIServer(held_up) as server:
        killing.kill_at_replies(command(server, killed, problems), killed, before)
        hangs = False
        killing.run_to_end(command(server, killed, problems))
        assert sum(server.served.values()) == 20 + 72 + 4 + 2 + 2
        killing.run_to_end(command(server, undisturbed, problems, "--gin.CONCURRENCY=3"))
    killing.assert_same_outcome(killed, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["verify/votes.jsonl", "verify/trials-00000-of-00003.jsonl"])
def test_killed_while_it_counts_votes_or_runs_programs_it_goes_on(
    tmp_path: Path, problems: Path, pattern: str
):
    lines = [row for _, _, row in jsonl.iter_rows(problems)]
    more = [lines[-1] | {"id": f"more{i}", "problem": f"{lines[-1]['problem']} {i}"} for i in range(16)]
    jsonl.write_records(problems, [*lines, *more])
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with OpenAIServer(help_out) as server:
        killing.kill_when(command(server, killed, problems), killed, pattern)
        num_served = sum(server.served.values())
        killing.run_to_end(command(server, killed, problems))
        assert sum(server.served.values()) == num_served
        killing.run_to_end(command(server, undisturbed, problems))
    killing.assert_same_outcome(killed, undisturbed)


@pytest.mark.slow
def test_a_server_that_misbehaves_costs_votes_with_reasons_and_nothing_else(tmp_path: Path, problems: Path):
    plays = [Fail(429, retry_after="0"), Hang(3.0), Raw(b'{"choices": [{'), Drop(), Fail(503)]
    for_good = {
        0: Say("cut \\boxed{1}", finish_reason="length"),
        1: Raw(b"<html>"),
        2: Say(None, "content_filter"),
    }

    def misbehaving(body, attempt):
        problem, kind = problem_of(body), kind_of(body)
        number = int(problem.split()[2]) if "Amara" in problem else None
        if kind == "solver" and number in for_good:
            return for_good[number]
        if kind == "judge" and number == 8:
            return "It is fine."
        if attempt < 2 and body["seed"] % 5 < 4:
            return plays[body["seed"] % 5]
        return help_out(body, attempt)

    with OpenAIServer(misbehaving) as server:
        arguments = command(server, tmp_path / "run", problems)
        arguments.append("--gin.verify/endpoint.EndpointConfig.attempt_seconds=2.0")
        assert cli.main(arguments) == 0
        # A second run has nothing to do; without its files it asks for nothing that was answered, but three
        # times for each of the eight replies that nobody could read.
        before, num_asked = (tmp_path / "run" / "verified_prompts.jsonl").read_bytes(), len(server.asked)
        assert cli.main(arguments) == 0
        (tmp_path / "run" / "verified_prompts.jsonl").unlink()
        shutil.rmtree(tmp_path / "run" / "verify")
        assert cli.main(arguments) == 0
        assert len(server.asked) == num_asked + 24
    assert (tmp_path / "run" / "verified_prompts.jsonl").read_bytes() == before
    rejects = rejects_of(tmp_path / "run")
    assert {
        name: reject.figures.get("endings") for name, reject in rejects.items() if name in ("p0", "p1", "p2")
    } == {
        "p0": {"length": 8},
        "p1": {"malformed": 8},
        "p2": {"filtered": 8},
    }
    assert {rejects[name].reason for name in ("p0", "p1", "p2")} == {"no_valid_vote"}
    assert (rejects["p8"].check, rejects["p8"].reason) == ("judge", "no_verdict")
    assert list(prompts_of(tmp_path / "run")) == ["p7", "p9", "c0", "c1"]
    report = json.loads((tmp_path / "run" / "verify" / "report.json").read_text())
    assert report["judge"]["unreadable"] == {"no_fence": 2}
    assert report["replies"]["solutions"]["length"] == 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gin.VERIFY_PROBLEMS='nowhere.jsonl'"], "nowhere.jsonl: no such file"),
        (
            ["--gin.VERIFY_PROBLEMS='{tmp}/question.jsonl'"],
            "question.jsonl:1: field 'problem' of",
        ),
        (["--gin.VERIFY_PROBLEMS='{tmp}/empty.jsonl'"], "empty.jsonl:1: the problem is empty"),
        (["--gin.VERIFY_PROBLEMS='{tmp}/twice.jsonl'"], "the id 'a' occurs twice"),
        (["--gin.VERIFY_PROBLEMS='{tmp}/lineage.jsonl'"], "lineage.jsonl:1: field 'round_index'"),
        (
            ["--gin.VERIFY_PROBLEMS='{tmp}/assertions.jsonl'"],
            "assertions.jsonl:1: field 'tests'[0] must be an object, got str; programs are verified by tests "
            'of standard input and output, {"input": ..., "output": ...}',
        ),
        (["--gin.VERIFY_PROBLEMS='{tmp}/none.jsonl'"], "none.jsonl: there are no problems in it"),
        (["--gin.VOTE_TEMPERATURE=0.0"], "raise VOTE_TEMPERATURE"),
        (["--gin.VOTE_GROUP_SIZE=1"], "num_solutions must be at least 2"),
        (["--gin.MIN_AGREEMENT=0.0"], "min_agreement must lie in (0, 1]"),
        (["--gin.MIN_TESTS=99"], "min_tests, max_tests and max_inputs"),
        (["--gin.MIN_KILL_RATE=2.0"], "min_kill_rate must lie in [0, 1]"),
        (["--gin.JUDGINGS=0"], "judgings must be at least 1"),
        (["--gin.API_KEY_VARIABLE='NO_SUCH_KEY'"], "api_key_variable names NO_SUCH_KEY, which is not set"),
        (["--gin.VOTER='stranger'"], "EndpointConfig.model='stranger' must be a model of this server"),
        (["--gin.COST_LIMIT=0.01", "--gin.COMPLETION_PRICE=1.0"], "EndpointConfig.cost_limit is 0.01"),
        (["--gin.VOTED_BY=@verify/voter/text_models.JaxModel()"], "solver"),
    ],
)
def test_wrong_use_is_one_sentence_that_names_the_setting(
    tmp_path: Path, problems: Path, more: list[str], message: str, capsys, monkeypatch
):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    files = {
        "question": '{"question": "x"}\n',
        "empty": '{"problem": " "}\n',
        "twice": '{"id": "a", "problem": "x?"}\n' * 2,
        "lineage": '{"problem": "x?", "round_index": "first"}\n',
        "assertions": '{"domain": "code", "problem": "Write f.", "tests": ["assert f(1) == 2"]}\n',
        "none": "",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)

    with OpenAIServer(asking.knowing_no_stranger(help_out)) as server:
        sentence = asking.refusal(command(server, tmp_path / "run", problems), more, tmp_path, capsys)
    assert message in sentence
    assert not (tmp_path / "run" / "verified_prompts.jsonl").exists()


def test_without_a_sandbox_programs_are_refused_before_anything_is_paid(
    tmp_path: Path, problems: Path, capsys, monkeypatch
):
    monkeypatch.setattr(sandbox_host, "_working_host", lambda *, is_weak: (None, ["bwrap: no permission"]))
    with OpenAIServer(help_out) as server:
        assert cli.main(command(server, tmp_path / "run", problems)) == 2
        assert not server.asked
    assert "allow_weak_sandbox" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_settled_stays_when_how_it_is_asked_changes_and_not_when_what_is(
    tmp_path: Path, problems: Path, capsys
):
    def half(body, attempt):
        return help_out(body, attempt) if kind_of(body) == "judge" else Fail(401)

    with OpenAIServer(half) as server:
        assert cli.main(command(server, tmp_path / "run", problems)) == 2
    with OpenAIServer(help_out) as server:  # at another address
        arguments = command(server, tmp_path / "run", problems, "--gin.CONCURRENCY=2")
        assert cli.main([*arguments, "--gin.MIN_AGREEMENT=0.75"]) == 2
        assert "min_agreement was 0.5, now 0.75" in capsys.readouterr().err
        assert cli.main(arguments) == 0
        assert not [body for body in server.asked if kind_of(body) == "judge"]


@pytest.mark.slow
def test_a_model_in_jax_solves_judges_and_writes_tests(tmp_path: Path, problems: Path):
    """A toy of random weights: nothing that it writes can be used, and each problem says why."""
    toy = asking.save_toy(tmp_path / "toy")
    lines = [row for _, _, row in jsonl.iter_rows(problems)]
    jsonl.write_records(tmp_path / "some.jsonl", [lines[0], lines[4], lines[10]])
    bindings = (
        f"VERIFY_PROBLEMS='{tmp_path / 'some.jsonl'}'",
        f"VOTER='{toy}'",
        "MAX_REPLY_TOKENS=8",
        "MAX_VOTE_TOKENS=8",
        "NUM_SLOTS=4",
    )
    for name in ("one", "other"):
        stage.run_stage("verify", ("stages/verify.gin",), bindings, str(tmp_path / name))
    rejects = rejects_of(tmp_path / "one")
    assert {name: reject.reason for name, reject in rejects.items()} == {
        "p0": "no_valid_vote",
        "p4": "missing_figure",
        "c0": "no_inputs",
    }
    killing.assert_same_outcome(tmp_path / "one", tmp_path / "other")
    judged = (*bindings, "JUDGED_BY=@verify/judge/text_models.JaxModel()")
    stage.run_stage("verify", ("stages/verify.gin",), judged, str(tmp_path / "judged"))
    rejects = rejects_of(tmp_path / "judged")
    assert {(r.check, r.reason) for r in rejects.values()} == {
        ("judge", "no_verdict"),
        ("statement", "missing_figure"),
    }
    entry = manifest.read(tmp_path / "judged")["verify"]
    assert entry.inputs[toy] != "none"
    assert entry.counts["completion_tokens"] > 0


@pytest.mark.slow
def test_of_two_hosts_the_first_alone_asks_and_runs_programs(tmp_path: Path, problems: Path):
    with OpenAIServer(help_out) as server:
        outputs = test_hosts.run_hosts(command(server, tmp_path / "two", problems))
        assert len(server.asked) == 20 + 72 + 4 + 2 + 2
        assert cli.main(command(server, tmp_path / "one", problems)) == 0
    assert len(outputs) == 2
    killing.assert_same_outcome(tmp_path / "two", tmp_path / "one")


def mbpp_rows(limit: int) -> list[dict]:
    """MBPP problems whose tests are calls with literals: their statement for stdin, inputs, program."""
    found = []
    for line in MBPP.read_text().splitlines():
        row = json.loads(line)
        calls = [programs.call_test_of(records.AssertTest(text)) for text in row["tests"]]
        if row["test_setup"] or not all(calls):
            continue
        ask = "Read the arguments as one Python tuple literal. Print the result's repr."
        arguments = "*ast.literal_eval(sys.stdin.read().strip())"
        reads = f"import ast, sys\nprint(repr({calls[0].function}({arguments})))"
        found.append(
            {
                "id": row["id"],
                "problem": f"{row['problem']} {ask}".replace("\n", " "),
                "inputs": [repr(call.args) for call in calls],
                "outputs": [repr(call.expected) for call in calls],
                "program": f"{row['solution']}\n{reads}".replace("\r", ""),
            }
        )
    return found[:limit]


def plain(value):
    """A value in which a tuple is a list and a float is rounded."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


@pytest.mark.slow
@pytest.mark.skipif(not MBPP.exists(), reason="needs shared data")
def test_mbpp_programs_become_tests_that_their_own_solutions_pass(tmp_path: Path):
    """The server knows each solution, in two texts, and gives a wrong program to a quarter of the samples."""
    rows = mbpp_rows(40)
    by_problem = {row["problem"]: row for row in rows}
    lines = [{"id": row["id"], "domain": "code", "problem": row["problem"]} for row in rows]
    jsonl.write_records(tmp_path / "mbpp.jsonl", lines)

    def answer(body, attempt):
        row, kind = by_problem[problem_of(body)], kind_of(body)
        if kind == "judge":
            return verdict()
        if kind == "inputs":
            return f"```json\n{json.dumps(row['inputs'])}\n```"
        if kind in ("maker", "validator"):
            return "I cannot."
        number = body["seed"] % 4
        return fenced("print(0)" if number == 3 else row["program"] + "\npass" * number)

    with OpenAIServer(answer) as server:
        assert cli.main(command(server, tmp_path / "run", tmp_path / "mbpp.jsonl")) == 0
    prompts, rejects = prompts_of(tmp_path / "run"), rejects_of(tmp_path / "run")
    assert len(prompts) + len(rejects) == 40
    assert len(prompts) > 20
    allowed = {"solutions_disagree", "too_few_tests", "weak_tests", "missing_figure"}
    assert {reject.reason for reject in rejects.values()} <= allowed
    rows_by_id = {row["id"]: row for row in rows}
    for prompt in prompts.values():
        row = rows_by_id[prompt.id]
        expected = dict(zip(row["inputs"], row["outputs"], strict=True))
        for test in prompt.tests:
            wanted, printed = expected[test.input.strip()], test.output.strip()
            assert plain(ast.literal_eval(printed)) == plain(ast.literal_eval(wanted))
        assert 0.5 <= prompt.kill_rate <= 1.0 or not prompt.num_mutants
    assert sum(prompt.num_mutants > 0 for prompt in prompts.values()) > 15


@pytest.mark.slow
def test_a_failed_sandbox_rejects_with_a_reason_and_programs_run_again_without_new_replies(
    tmp_path: Path, problems: Path, monkeypatch
):
    def lost(trials, settings):
        return [[programs.ProgramOutput(failure="sandbox_error")] * len(inputs) for _, inputs in trials]

    run = tmp_path / "run"
    with OpenAIServer(help_out) as server:
        with monkeypatch.context() as broken:
            broken.setattr(program_pool, "outputs_of_many", lost)
            assert cli.main(command(server, run, problems)) == 0
        assert not {"c0", "c1"} & prompts_of(run).keys()
        assert {rejects_of(run)[name].reason for name in ("c0", "c1")} == {"sandbox_failed"}
        report = json.loads((run / "verify" / "report.json").read_text())
        assert report["tests"]["lost_runs"] > 0
        assert manifest.read(run)["verify"].counts["dropped_tests_sandbox_failed"] == 2
        num_asked = len(server.asked)
        (run / "verified_prompts.jsonl").unlink()
        shutil.rmtree(run / "verify")
        assert cli.main(command(server, run, problems)) == 0
        assert len(server.asked) == num_asked
    assert {"c0", "c1"} <= prompts_of(run).keys()
    assert prompts_of(run)["c0"].checks == ("statement", "judge", "tests", "mutants")


def test_pools_and_what_is_asked_of_the_writer_of_tests_are_settings(tmp_path: Path, problems: Path):
    lines = [row for _, _, row in jsonl.iter_rows(problems)]
    jsonl.write_records(tmp_path / "some.jsonl", [lines[0], lines[10]])
    with OpenAIServer(help_out) as server:
        more = [
            "--gin.verifying.PoolConfig.easy_from=0.6",
            "--gin.verifying.PoolConfig.hard_to=0.1",
            "--gin.input_proposals.ProposalConfig.num_lists=3",
            "--gin.input_proposals.ProposalConfig.validator=False",
        ]
        assert cli.main(command(server, tmp_path / "run", tmp_path / "some.jsonl", *more)) == 0
        kinds = [kind_of(body) for body in server.asked]
    assert (kinds.count("inputs"), kinds.count("validator"), kinds.count("maker")) == (3, 0, 1)
    assert prompts_of(tmp_path / "run")["p0"].pool == "easy"
