"""Rows in the layouts of public benchmarks, all of them made up."""

import base64
import json
import pathlib
import pickle
import zlib
from typing import Any


def write(path: pathlib.Path, *lines: dict[str, Any] | str) -> pathlib.Path:
    """Rows as JSON lines; a text is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def packed(content: Any) -> str:
    """Base64 of a compressed pickle, as LiveCodeBench has its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(content))).decode()


def stdin_problem(**changes: Any) -> dict[str, Any]:
    """A problem of LiveCodeBench that reads and prints: the sum of two numbers."""
    test = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
    hidden = {"input": "20 22\n", "output": "42\n", "testtype": "stdin"}
    return {
        "question_title": "Sum",
        "question_content": "Read two numbers and print their sum.",
        "platform": "atcoder",
        "question_id": "abc001_a",
        "contest_id": "abc001",
        "contest_date": "2024-09-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([test]),
        "private_test_cases": packed(json.dumps([hidden])),
        "metadata": "{}",
    } | changes


def call_problem(**changes: Any) -> dict[str, Any]:
    """A problem of LiveCodeBench with starter code: the numbers of a list that are above a limit."""
    test = {"input": "[1, 5, 3]\n2", "output": "[5, 3]", "testtype": "functional"}
    hidden = {"input": "[]\n0", "output": "[]", "testtype": "functional"}
    return (
        stdin_problem(
            question_content="Return the numbers above the limit, in order.",
            platform="leetcode",
            question_id="4001",
            starter_code=(
                "class Solution:\n    def above(self, nums: List[int], limit: int) -> List[int]:\n        "
            ),
            public_test_cases=json.dumps([test]),
            private_test_cases=json.dumps([hidden]),
            metadata=json.dumps({"func_name": "above"}),
        )
        | changes
    )


HUMAN_EVAL = {
    "task_id": "HumanEval/900",
    "prompt": (
        "from typing import List\n\n\ndef shifted(n: int) -> int:\n    return n + 1\n\n\n"
        'def unshifted(numbers: List[int]) -> List[int]:\n    """ Undo what shifted does to each. """\n'
    ),
    "entry_point": "unshifted",
    "canonical_solution": "    return [n - 1 for n in numbers]\n",
    "test": (
        "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    import random\n"
        "    rng = random.Random(1)\n    for _ in range(5):\n        n = rng.randint(0, 9)\n"
        "        assert candidate([shifted(n)]) == [n], 'wrong'\n    assert candidate([]) == []\n"
    ),
}
MBPP = {
    "task_id": 77,
    "text": "Write a function to double a number.",
    "code": "def double(n):\n    return 2 * n\n",
    "test_list": ["assert double(2) == 4", "assert double(-1.5) == -3"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
SANITIZED_MBPP = {
    "source_file": "x.pdf",
    "task_id": 78,
    "prompt": "Write a function for the area of a circle.",
    "code": "import math\ndef area(r):\n    return math.pi * r * r\n",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(area(2), 4 * math.pi)"],
}
