"""The seed corpus against the grader: every family's worked program passes the tests of its own row."""

import pytest

from promptcot_jax.corpus import generator, program_families
from promptcot_jax.data import templates
from promptcot_jax.verify import program_pool, sandbox_host


@pytest.fixture(scope="module")
def rows():
    config = generator.CorpusConfig(
        seed=3,
        num_train=3 * len(program_families.families()),
        num_heldout=0,
        num_novel=len(program_families.families()),
        families=tuple(family.name for family in program_families.families()),
    )
    corpus = generator.generate(config)
    return [*corpus.train, *corpus.novel]


@pytest.mark.slow
def test_worked_programs_pass_their_tests_and_not_those_of_others(rows):
    try:
        sandbox_host.find_host()
    except sandbox_host.SandboxUnavailable as reason:
        pytest.skip(str(reason))
    solved = [(templates.last_code_fence(row.solution), row.tests) for row in rows]
    assert {row.family for row in rows} == {family.name for family in program_families.families()}
    assert not [
        (row.id, report)
        for row, report in zip(rows, program_pool.run_many(solved), strict=True)
        if not report.passed
    ]
    strangers = [(program, rows[i - 1].tests) for i, (program, _) in enumerate(solved)]
    passed = sum(report.passed for report in program_pool.run_many(strangers))
    assert passed <= len(rows) // 20
