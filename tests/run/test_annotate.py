"""`annotate` by a server on loopback and by a model in JAX: kills, faults, wrong use, real problems."""

import collections
import json
import os
import time
import types
import zlib
from pathlib import Path

import pytest

from promptcot_jax.core import jsonl, manifest, records
from promptcot_jax.run import cli, stage
from tests import annotators, toys
from tests.openai_server import Drop, Fail, Hang, OpenAIServer, Raw, Say, question
from tests.run import asking, killing, test_hosts

GSM8K = toys.SHARED / "data" / "train" / "gsm8k_train.jsonl"
GIN = "--gin_file=stages/annotate.gin"
TWO_TEACHERS = """
from __gin__ import dynamic_registration
from promptcot_jax.sampling import endpoint

include 'stages/annotate.gin'

ANNOTATORS = (@annotate/endpoint.EndpointConfig(), @annotate/second/endpoint.EndpointConfig())
annotate/second/endpoint.EndpointConfig.model = 'other/teacher'
"""


def problem_of(body) -> str:
    """The problem that a conversation is about."""
    return body["messages"][0]["content"].partition("Problem:\n")[2].partition("\n\n")[0]


def teach(body, attempt):
    """An honest teacher, whose words depend on the problem and on its own name."""
    if "Name the" in body["messages"][0]["content"]:
        number = zlib.crc32(problem_of(body).encode()) % 7
        return annotators.concept_list([f"{body['model']} {number} concept {i}" for i in range(5)])
    text = f"Begin with concept {len(problem_of(body))}, then make it harder."
    return annotators.thinking_process(text)


def command(server: OpenAIServer, workdir: Path, problems: Path, *more: str) -> list[str]:
    return [
        "annotate",
        GIN,
        f"--gin.PROBLEMS='{problems}'",
        "--gin.TEACHER='teacher'",
        f"--gin.BASE_URL='{server.base_url}'",
        "--gin.annotate/endpoint.EndpointConfig.first_pause=0.01",
        f"--workdir={workdir}",
        *more,
    ]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    names = ["apples", "bricks", "clouds", "dishes", "eggs", "forks", "games", "hats", "inks", "jars"]
    lines = [
        {"id": f"p{i}", "problem": f"A shop has {i} {a} and {i + 3} {b}. How many things is that? ({b}{a})"}
        for i, (a, b) in enumerate((a, b) for a in names for b in names[:3])
    ]
    jsonl.write_records(path, lines)
    return path


def rejects_of(workdir: Path) -> dict[str, types.SimpleNamespace]:
    rows = jsonl.iter_rows(workdir / "annotate" / "rejects.jsonl")
    return {row["id"]: types.SimpleNamespace(**row) for *_, row in rows}


@pytest.mark.skipif(not GSM8K.exists(), reason="needs shared data")
def test_gsm8k_by_two_teachers_becomes_triples(tmp_path: Path):
    (tmp_path / "gsm8k.jsonl").write_text("".join(GSM8K.read_text().splitlines(keepends=True)[:120]))
    (tmp_path / "two.gin").write_text(TWO_TEACHERS)
    with OpenAIServer(teach) as server:
        arguments = command(server, tmp_path / "run", tmp_path / "gsm8k.jsonl", "--gin.LEVEL='grade school'")
        arguments[1] = f"--gin_file={tmp_path / 'two.gin'}"
        assert cli.main(arguments) == 0
        assert len(server.asked) == 240
    workdir = tmp_path / "run"
    triples = [
        triple
        for name in ("triples", "triples_heldout")
        for triple in jsonl.read_records(workdir / f"{name}.jsonl", records.AnnotatedTriple)
    ]
    assert len(triples) == 120
    assert len(jsonl.read_records(workdir / "triples_heldout.jsonl", records.Triple)) in range(1, 20)
    by_annotator = collections.Counter(triple.annotator for triple in triples)
    assert set(by_annotator) == {"teacher", "other/teacher"}
    assert min(by_annotator.values()) > 35
    for triple in triples:
        assert all(concept.startswith(f"{triple.annotator} ") for concept in triple.concepts)
        assert f"concept {len(triple.problem)}," in triple.rationale
        assert (triple.level, triple.domain) == ("grade school", "math")
    seeds = {row["id"]: row for _, _, row in jsonl.iter_rows(tmp_path / "gsm8k.jsonl")}
    for _, _, row in jsonl.iter_rows(workdir / "triples.jsonl"):
        seed = seeds[row["id"]]
        assert all(row[name] == seed[name] for name in ("problem", "answer", "solution", "source"))
    order = [row["id"] for _, _, row in jsonl.iter_rows(workdir / "triples.jsonl")]
    assert order == [name for name in seeds if name in set(order)]
    report = json.loads((workdir / "annotate" / "report.json").read_text())
    assert report["rows"] == {
        "in": 120,
        "left_out": 0,
        "triples": 120,
        "rejected": 0,
        "share_rejected": 0.0,
        "repaired": 0,
    }
    assert "15,586" in report["warning"]
    counts = manifest.read(workdir)["annotate"].counts
    assert (counts["in"], counts["out"], counts["prompt_tokens"]) == (120, 120, 2400)
    operative = (workdir / "config" / "annotate.settings.json").read_text()
    assert "other/teacher" in operative


@pytest.mark.slow
def test_killed_and_gone_on_it_ends_in_the_bytes_of_an_undisturbed_run(tmp_path: Path, problems: Path):
    """Killed with nothing under way but what hangs, in the concepts and again in the rationales."""
    hang_from = {"concepts": 11, "rationales": 10**9}
    slow = False

    def held_up(body, attempt):
        part = "concepts" if "Name the" in body["messages"][0]["content"] else "rationales"
        number = int(problem_of(body).split()[3])
        if number >= hang_from[part]:
            return Hang(60)
        time.sleep((number * 7 % 5) / 100 if slow else 0.0)  # another order of replies
        if part == "concepts" and number % 4 == 1 and len(body["messages"]) == 1:
            return "I cannot tell."
        return teach(body, attempt)

    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    with OpenAIServer(held_up) as server:
        arguments = command(server, killed, problems)
        killing.kill_at_replies(arguments, killed, 11)
        hang_from |= {"concepts": 10**9, "rationales": 7}
        killing.kill_at_replies(arguments, killed, 30 + 8 + 7)  # 8 are second requests
        hang_from["rationales"] = 10**9
        killing.run_to_end(arguments)
        bills = dict(server.served)
        slow = True
        killing.run_to_end(command(server, undisturbed, problems, "--gin.CONCURRENCY=3"))
    assert sum(bills.values()) == 30 + 8 + 30
    assert len(jsonl.read_records(killed / "triples.jsonl", records.Triple)) > 20
    assert "repaired" in (killed / "triples.jsonl").read_text()
    killing.assert_same_outcome(killed, undisturbed)


def test_rows_that_are_left_out_are_in_log_report_and_manifest(tmp_path: Path, problems: Path, capsys):
    first = problems.read_text().splitlines()[0]
    problems.write_text("\n".join(["{", first, '{"id": "x"}', '{"id": "y", "problem": " "}']) + "\n")
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, tmp_path / "run", problems, "--gin.BAD_ROWS='skip'")) == 0
    told = capsys.readouterr().err
    assert "annotate: 1 triples of 4 problems (3 bad rows left out), 0.0% of the others rejected" in told
    report = jsonl.read_json(tmp_path / "run" / "annotate" / "report.json")
    assert (report["rows"]["in"], report["rows"]["left_out"], report["rows"]["triples"]) == (4, 3, 1)
    counts = manifest.read(tmp_path / "run")["annotate"].counts
    assert (counts["in"], counts["out"]) == (4, 1)
    assert sum(count for name, count in counts.items() if name.startswith("dropped_bad_")) == 3


def test_a_server_that_misbehaves_costs_rejects_with_reasons_and_nothing_else(tmp_path: Path, problems: Path):
    plays = {
        0: Fail(429, retry_after="0"),
        1: Hang(3.0),
        2: Raw(b'{"choices": [{'),
        3: Drop(),
        4: Fail(503),
    }
    for_good = {5: Say("cut", finish_reason="length"), 6: Raw(b"<html>"), 7: Say(None, "content_filter")}

    def misbehaving(body, attempt):
        number = int(problem_of(body).split()[3])
        if number in for_good:
            return for_good[number]
        return plays[number] if number in plays and attempt < 2 else teach(body, attempt)

    with OpenAIServer(misbehaving) as server:
        arguments = command(server, tmp_path / "run", problems)
        arguments.append("--gin.annotate/endpoint.EndpointConfig.attempt_seconds=2.0")
        assert cli.main(arguments) == 0
        assert server.most_at_once <= 16
        # A second run has nothing to do; without its files it asks for nothing that was answered, but three
        # times again for what could not be read.
        num_asked = len(server.asked)
        assert cli.main(arguments) == 0
        before = (tmp_path / "run" / "triples.jsonl").read_bytes()
        for name in (
            "triples.jsonl",
            "triples_heldout.jsonl",
            "annotate/rejects.jsonl",
            "annotate/report.json",
        ):
            (tmp_path / "run" / name).unlink()
        for path in (tmp_path / "run" / "annotate" / "0-teacher").iterdir():
            path.unlink()
        os.rmdir(tmp_path / "run" / "annotate" / "0-teacher")
        os.rmdir(tmp_path / "run" / "annotate")
        assert cli.main(arguments) == 0
        assert len(server.asked) == num_asked + 3
    assert (tmp_path / "run" / "triples.jsonl").read_bytes() == before
    rejects = rejects_of(tmp_path / "run")
    assert {name: reject.reason for name, reject in rejects.items()} == {
        "p5": "length",
        "p6": "malformed",
        "p7": "filtered",
    }
    counts = manifest.read(tmp_path / "run")["annotate"].counts
    assert counts["out"] == 27
    assert counts["dropped_concepts_malformed"] == counts["concepts_malformed"] == 1
    assert counts["concepts_length"] == counts["concepts_again_length"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gin.PROBLEMS='nowhere.jsonl'"], "nowhere.jsonl: no such file"),
        (
            ["--gin.PROBLEMS='{tmp}/question.jsonl'"],
            "question.jsonl:1: field 'problem' of SeedProblem is missing",
        ),
        (["--gin.PROBLEMS='{tmp}/text.txt'"], "text.txt: the extension names no format"),
        (["--gin.PROBLEMS='{tmp}/damaged.jsonl'"], "damaged.jsonl:1: not a JSON object"),
        (["--gin.API_KEY_VARIABLE='NO_SUCH_KEY'"], "api_key_variable names NO_SUCH_KEY, which is not set"),
        (["--gin.TEACHER='stranger'"], "EndpointConfig.model='stranger' must be a model of this server"),
        (["--gin.ANNOTATORS=()"], "ANNOTATORS"),
        (
            ["--gin.ANNOTATORS=(@annotate/endpoint.EndpointConfig(), @annotate/endpoint.EndpointConfig())"],
            "ANNOTATORS names 'teacher' twice",
        ),
        (["--gin.ANNOTATORS=(@annotate/text_models.JaxModel(),)"], "teacher"),
        (["--gin.BASE_URL='localhost'"], "base_url must be a URL"),
        (["--gin.COST_LIMIT=1.0"], "cost_limit is set, but no price is"),
        (
            ["--gin.COST_LIMIT=0.01", "--gin.COMPLETION_PRICE=1.0"],
            "at most 245,760 completion tokens: about 0.25 if every reply is as long, and "
            "EndpointConfig.cost_limit is 0.01",
        ),
        (["--gin.NUM_CONCEPTS=0"], "num_concepts must be at least 1"),
        (["--gin.DOMAIN='law'"], "domain"),
        (["--gin.DUPLICATE_COSINE=2.0"], "embedding_threshold must lie in (0, 1]"),
        (["--gin.DUPLICATE_COSINE=0.9", "--gin.ENCODER='nowhere'"], "ENCODER is 'nowhere'"),
    ],
)
def test_wrong_use_is_one_sentence_that_names_the_setting(
    tmp_path: Path, problems: Path, more: list[str], message: str, capsys, monkeypatch
):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (tmp_path / "question.jsonl").write_text('{"question": "x"}\n')
    (tmp_path / "text.txt").write_text("x\n")
    (tmp_path / "damaged.jsonl").write_text('{"problem": \n')

    with OpenAIServer(asking.knowing_no_stranger(teach)) as server:
        sentence = asking.refusal(command(server, tmp_path / "run", problems), more, tmp_path, capsys)
        assert len(server.asked) <= (16 if "stranger" in more[0] else 0)
    assert message in sentence
    assert not (tmp_path / "run" / "triples.jsonl").exists()


def test_the_key_is_sent_and_stays_out_of_the_workdir(tmp_path: Path, problems: Path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    with OpenAIServer(teach) as server:
        arguments = command(server, tmp_path / "run", problems, "--gin.API_KEY_VARIABLE='TEACHER_KEY'")
        assert cli.main(arguments) == 0
    assert server.keys == {"sk-very-secret"}
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"sk-very-secret" not in path.read_bytes(), path


def test_how_it_is_asked_may_change_between_attempts_and_what_is_asked_may_not(
    tmp_path: Path, problems: Path, capsys
):
    def half(body, attempt):
        return teach(body, attempt) if "Name the" in question(body) else Fail(401)

    with OpenAIServer(half) as server:
        assert cli.main(command(server, tmp_path / "run", problems)) == 2
    with OpenAIServer(teach) as server:  # at another address
        arguments = command(server, tmp_path / "run", problems, "--gin.CONCURRENCY=2")
        assert cli.main([*arguments, "--gin.TEMPERATURE=0.1"]) == 2
        assert "temperature was 0.7, now 0.1" in capsys.readouterr().err
        assert cli.main(arguments) == 0
        assert len(server.asked) == 30  # the rationales


def test_a_model_in_jax_answers_and_what_it_cannot_do_is_rejected(tmp_path: Path, problems: Path):
    """A toy of random weights: what it writes is no list, and it is asked for one twice."""
    toy = asking.save_toy(tmp_path / "toy")
    (tmp_path / "some.jsonl").write_text("".join(problems.read_text().splitlines(keepends=True)[:3]))
    bindings = (
        f"PROBLEMS='{tmp_path / 'some.jsonl'}'",
        f"TEACHER='{toy}'",
        "ANNOTATORS=(@annotate/text_models.JaxModel(),)",
        "MAX_REPLY_TOKENS=8",
        "NUM_SLOTS=4",
    )
    for name in ("one", "other"):
        stage.run_stage("annotate", ("stages/annotate.gin",), bindings, str(tmp_path / name))
    rejects = rejects_of(tmp_path / "one")
    assert set(rejects) == {"p0", "p1", "p2"}
    assert {reject.reason for reject in rejects.values()} <= {"length", "no_list"}
    assert {reject.annotator for reject in rejects.values()} == {toy}
    killing.assert_same_outcome(tmp_path / "one", tmp_path / "other")
    entry = manifest.read(tmp_path / "one")["annotate"]
    assert entry.inputs[toy] != "none"
    assert entry.counts["completion_tokens"] > 0
    assert not (tmp_path / "one" / "paid_replies").exists()


def test_near_duplicates_are_left_out_before_anything_is_asked(tmp_path: Path, problems: Path):
    lines = [json.loads(line) for line in problems.read_text().splitlines()][:2]
    lines += [lines[0] | {"id": "again", "problem": lines[0]["problem"].upper()}]
    jsonl.write_records(tmp_path / "twice.jsonl", lines)
    with OpenAIServer(teach) as server:
        assert cli.main(command(server, tmp_path / "run", tmp_path / "twice.jsonl")) == 0
        assert len({question(body) for body in server.asked}) == len(server.asked) == 4
    assert rejects_of(tmp_path / "run")["again"].message == "repeats p0 (similarity 1.000)"


def test_near_duplicates_by_vectors_are_left_out_where_a_cosine_is_set(tmp_path: Path, problems: Path):
    lines = [json.loads(line) for line in problems.read_text().splitlines()][:6]
    first, *rest = lines[5]["problem"].split(". ")
    lines += [lines[5] | {"id": "moved", "problem": ". ".join([*rest, first])}]  # the same words
    jsonl.write_records(tmp_path / "moved.jsonl", lines)
    with OpenAIServer(teach) as server:
        for name, cosine, num_kept in (("off", "None", 7), ("on", "0.9", 6)):
            arguments = command(server, tmp_path / name, tmp_path / "moved.jsonl")
            more = ["--gin.DUPLICATE_THRESHOLD=None", f"--gin.DUPLICATE_COSINE={cosine}"]
            assert cli.main([*arguments, *more]) == 0
            counts = manifest.read(tmp_path / name)["annotate"].counts
            assert counts["out"] == num_kept
    assert not rejects_of(tmp_path / "off")
    (reject,) = rejects_of(tmp_path / "on").values()
    assert (reject.id, reject.part, reject.reason) == ("moved", "problem", "near_duplicate")
    assert reject.message.startswith("repeats p5 (cosine 0.9")


@pytest.mark.slow
def test_of_two_hosts_the_first_alone_asks(tmp_path: Path, problems: Path):
    with OpenAIServer(teach) as server:
        outputs = test_hosts.run_hosts(command(server, tmp_path / "two", problems))
        assert len(server.asked) == 60
        assert cli.main(command(server, tmp_path / "one", problems)) == 0
    assert len(outputs) == 2
    killing.assert_same_outcome(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_host_that_does_not_ask_hears_why_the_first_stopped(tmp_path: Path, problems: Path):
    with OpenAIServer(lambda body, attempt: Fail(404)) as server:
        processes = test_hosts.start_hosts(command(server, tmp_path / "run", problems))
        outputs = [process.communicate(timeout=killing.DEADLINE_SECONDS)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert all("EndpointConfig.model='teacher' must be" in output for output in outputs)
