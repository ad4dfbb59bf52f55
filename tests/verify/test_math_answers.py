"""Facts of the answer grader: what it accepts, what it refuses, and that it never runs a text as code."""

import json
import os
import pathlib
import random
import subprocess
import sys
from typing import Any

import pytest

from promptcot_jax.verify import math_answers, symbolic
from promptcot_jax.verify.math_answers import grade_many, grade_math
from tests.verify import rewritten_answers
from tests.verify.hostile_answers import hostile_answers

CASES = (
    pathlib.Path(os.environ.get("PROMPTCOT_SHARED", pathlib.Path(__file__).parents[3] / "shared")) / "cases"
)

# One line a pair; the first is the reference.
EQUAL = {
    "characters": r"""
        x^{-2} == x⁻²
        x^{12} == x¹²
        \frac{x^2}{2} == ½x²
        3/2 == 1½
        1/3 == ⅓
        2x+2 == ２x＋２
        (3/2, 0) == （1.5，0）
        C == （C）
        x == 𝑥
        10 == 𝟙𝟘
        \mathbb{Q} == ℚ
        \mu == μ
        \varepsilon_0 == epsilon_0
        x_{10} == x₁₀
        \sqrt[3]{5} == ∛5
        \sqrt[3]{16} == ∛16
        72 == 2³3²
        72 == 2^{3}3^{2}
        3/2 == 1又1/2
        2, 3 == 2或3
        1000 == ¥1,000
        5 cents == 5¢
        42 == **42**
        """,
    "plain text": r"""
        10^{-2} == 10^-2
        \sqrt[3]{2} == \sqrt[3]2
        \frac{\pi}{2} == \frac\pi 2
        \ln|x-1| == ln(Abs(x-1))
        \frac{q}{4\pi\varepsilon_0 r^2} == q/(4*pi*epsilon_0*r**2)
        (2) == Option 2
        even == \operatorname{even}
        yes == YES
        30 \text{ minutes} == 30 min
        30 == 30min
        10 == 10sec
        |x-1| == abs(x-1)
        |x^{a+b}| == Abs(x^(a+b))
        |\sqrt{x}| == Abs(sqrt(x))
        2^{x^{y}} == 2^(x^(y))
        \begin{pmatrix}1&2\\3&4\end{pmatrix} == [[1,2],[3,4]]
        """,
    "typesetting": r"""
        42 == The answer is \boxed{042}.
        \frac{1}{2} == \dfrac12
        \frac{1}{2} == \\dfrac{1}{2}
        \frac{3}{4} == \tfrac 3 4
        \frac{\sqrt{3}}{2} == sqrt(3)/2
        \frac{\pi}{2} == pi/2
        3\sqrt{2} == 3√2
        (1,2) == \left( 1, 2 \right)
        \{1,2\} == \left\lbrace 1,\, 2 \right\rbrace
        17 == $17$
        17 == \[17\]
        17 == 17\
        -5 == −5
        x^2 == x²
        x^{3+1} == x^{\left{4\right}}
        x^2 + 1 == x**2 + 1
        \mathbf{17} == 17
        x_1 == x_{1}
        \emptyset == \{\}
        \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} == \\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}
        """,
    "numbers": r"""
        1/2 == 0.50
        \frac{-3}{4} == -0.75
        -\frac{1}{2} == \frac{1}{-2}
        8/46 == \tfrac{4}{23}
        1234.5 == $1{,}234.50$
        1,234,567 == 1234567
        1 000 000 == 1,000,000
        11,\! 111,\! 111 == 11111111
        3/2 == 1\frac{1}{2}
        -1.5 == -1 1/2
        \frac{17}{4} == 4 \frac{1}{4}
        9/2 == 1 \frac{1}{2} + 3
        120000 == 1.2 \times 10^5
        0.0045 == 4.5E-3
        6.02e23 == 6.02\cdot10^{23}
        1000000 == 10^6
        0.\overline{3} == \frac{1}{3}
        1.2\overline{34} == 611/495
        5,000,000 == 5 million
        120 == 5!
        10 == \binom{5}{2}
        2^3 \cdot 3^2 == 72
        2^6 * 3^5 == 2^6 3^5
        10 == (2)(5)
        1 == 2(\frac{1}{2})
        .5 == 0.5
        5. == 5
        """,
    "long decimals of values that have no short one": r"""
        1/3 == 0.333333
        2/3 == 0.6666666666666666
        \frac{\sqrt{3}}{2} == 0.8660254037844386
        \sqrt{2} == 1.41421356
        1/432 == 2.314814814815 \times 10^{-3}
        18 == 17.999999999999996
        0.3 == 0.30000000000000004
        """,
    "percent": r"""
        10\% == 10
        10\% == 0.1
        25\% == \frac{1}{4}
        12.5\% == 12.5 percent
        0.25 == 25\%
        28\% == 28 pct
        28\% == 28 per cent
        \sqrt{2}\% == \frac{\sqrt{2}}{100}
        """,
    "degrees, currency, units": r"""
        90 == 90^\circ
        120° == 120
        60^{\circ} == 60 degrees
        \sin(90^\circ - x) == \cos x
        1/2 == \cos 60^\circ
        10 == \$10
        10 == 10cm
        10 == 10weeks
        10 == 10 \text{ square units}
        10\text{ cm}^2 == 10
        10\text{ cm} == 10\text{ centimeters}
        9.8 == 9.8 \text{ m/s}^2
        36\pi == 36\pi \text{ cm}^3
        17 == \text{17 minutes}
        17\text{ any text} == 17
        12 == 12 chickens
        12 == 12 marbles in the box
        24\pi == 24\pi square inches
        35\text{ cm}^2 == 35 square centimeters
        60 mph == 60 \text{ miles per hour}
        $\frac{7}{12}$ of the cake == 7/12
        """,
    "announced without a box": r"""
        9 == The final answer is $9$. I hope it is correct.
        9 == We add them. So the answer is 9.
        x \geq 5 == Therefore $x \geq 5$ is the solution.
        9 == **Final Answer:** \(9\)
        x < 3 == We find that $x \lt 3$.
        \frac{1}{2} == The slope of the line is $\frac{1}{2}$.
        """,
    "several values": r"""
        1, 2, 3 == 3, 2, 1
        7, -2, \text{ and } -5 == -5,-2,7
        2, 3 == 2 or 3
        -1, 0, 1 == -1 \text{, } 0 \text{, and } 1
        2, 3 == \boxed{2} and \boxed{3}
        \{1, 2\} == 2, 1
        \{1, 2\} == \{2, 1, 2\}
        5 == \{5\}
        \pm 3 == 3, -3
        x = \pm\sqrt{2} == \sqrt{2}, -\sqrt{2}
        \{x - y, x + y\} == \{x \pm y\}
        \frac{-1 \pm \sqrt{5}}{2} == \frac{\sqrt{5}-1}{2}, \frac{-1-\sqrt{5}}{2}
        x = 1, x = -1 == -1, 1
        x = 1, y = 2, z = 3 == 1, 2, 3
        a = 1, b = 2 == b = 2, a = 1
        p=5, q=2 \text{ and } p=7, q=2 == p=7,q=2;p=5,q=2
        k = \{1, 2, 3\} == k = 1,2,3
        \frac{1}{2}, 3 == 3.0, 0.5
        100,200 == 200, 100
        x+1, a\ldots == a\ldots, 1+x
        (1, 2), (3, 4) == (3, 4), (1, 2)
        \{(1,2),(3,4)\} == \{(3,4),(1,2)\}
        \begin{cases} x=1 \\ y=2 \end{cases} == x=1, y=2
        """,
    "tuples, intervals, inequalities, sets": r"""
        (1, 2, 3) == \langle 1, 2, 3 \rangle
        (1, 2, 3) == 1, 2, 3
        (x, y) = (3, 4) == (3,4)
        (3, 4) == x = 3, y = 4
        (\frac{1}{2}, x+1) == (0.5, 1+x)
        [1/2, \infty) == x \in [0.5, \infty)
        [1,4) == 1 \le x < 4
        (3,\infty) == x > 3
        x \geq 2 == 2 \leq x
        (-\infty, 5) == t < 5
        (0, 1) == 0 < f(x) < 1
        (-2, 2) == |x| < 2
        [-3, -1] \cup [1, 3] == 1 \le |x| \le 3
        (-\infty, -2) \cup (2, \infty) == |x| > 2
        [2, 5) == x \ge 2 \text{ and } x < 5
        [2, 5) == 2 \le x, x < 5
        (-\infty,2)\cup(2,\infty) == x \neq 2
        x \neq -1, 1 == \mathbb{R} \setminus \{1, -1\}
        (0, \infty) == \mathbb{R}^+
        \text{all real numbers} == \mathbb{R}
        (3, 4) == \begin{pmatrix} 3 \\ 4 \end{pmatrix}
        (3,\infty) == \{x \mid x > 3\}
        1 \leq x < 4 == \{ x \in \mathbb{R} : 1 \le x < 4 \}
        (-\infty, \infty) == \mathbb{R}
        (-\infty,-1) \cup (1,\infty) == x < -1 \text{ or } x > 1
        (-\infty,2) \cup (3,\infty) == (3,\infty)\cup(-\infty,2)
        [0,2] == [0,1] \cup [1,2]
        \{2\} == [2,2]
        \{2\} == \{1,2\} \cap \{2,3\}
        \mathbb{R} \setminus \{0\} == (-\infty,0)\cup(0,\infty)
        """,
    "equations": r"""
        5 == x=5
        x=5 == 5
        7 == n=\frac{14}{2}=7
        7 == 7=n
        7 == x+y=7
        9 == f(2)=9
        \frac{1}{3} == P(A) = 1/3
        4 == 2+2=4
        2x+3 == f(x)=2x+3
        f(x) = 2x+3 == y = 3+2x
        y=2x+1 == 2x-y+1=0
        2x+4y=6 == x+2y=3
        x+y<2 == 2 > x+y
        \frac{22}{7} == \frac{22}{7} \approx 3.14
        """,
    "complex numbers": r"""
        2 == (1+i)(1-i)
        1+2i == i(2-i)
        -1 == i^2
        \frac{1-i}{2} == \frac{1}{1+i}
        3i == 3 i
        a + bi == bi + a
        e^{i\pi/3} == \frac{1}{2}+\frac{\sqrt{3}}{2}i
        e^{i\theta} == \cos\theta + i\sin\theta
        """,
    "expressions": r"""
        x^2-1 == (x-1)(x+1)
        \frac{x+1}{x-1} == \frac{-x-1}{1-x}
        \frac{x}{2} == 0.5x
        5\sqrt2 == \sqrt{50}
        \frac{1}{\sqrt{2}} == \frac{\sqrt{2}}{2}
        1 == \sin^2 x + \cos^2 x
        \tan x == \frac{\sin x}{\cos x}
        \sin^{-1} a == \arcsin(a)
        3 == \log_2 8
        |x-1| == |1-x|
        \frac{n(n+1)}{2} == \frac{n^2+n}{2}
        n == \frac{n!}{(n-1)!}
        55 == \sum_{k=1}^{10} k
        \frac{n(n+1)}{2} == \sum_{k=1}^{n} k
        \frac{\pi^2}{6} == \sum_{n=1}^{\infty} \frac{1}{n^2}
        120 == {16 \choose 2}
        \frac{\pi}{2}+k\pi, k \in \mathbb{Z} == k\pi + \frac{\pi}{2} (k \in \mathbb{Z})
        1/3 == \int_0^1 x^2 dx
        e^2 == \exp(2)
        \begin{pmatrix} \frac{x}{2} \\ 3 \end{pmatrix} == \begin{bmatrix} 0.5x \\ 3.0 \end{bmatrix}
        """,
    "words and choices": r"""
        odd == \text{odd}
        \text{Yes} == yes
        C == c
        C == (C)
        C == \textbf{(C)}\ 12
        (D) Alina == D
        4210_{7} == 4210_7
        3:4 == 3 : 4
        7:30 == 7{:}30
        """,
}
DIFFERENT = {
    "characters": r"""
        2 != ²
        2 != ½
        x^2 != x³
        x^{12} != x¹³
        ２ != 3
        150 != 1€50
        \alpha != β
        \varepsilon != η
        x_1 != x₂
        x != 𝑦
        ℝ != ℤ
        \sqrt[3]{5} != √5
        6 != ∛16
        \pi != ⅟π
        \Pi != π
        2^{32} != 2^{3}2
        x^{23} != x²3
        1又1/2 != 1/2
        """,
    "plain text": r"""
        10^-2 != 10^2
        \sqrt[3]2 != \sqrt 2
        |x-1| != x-1
        Option 2 != 3
        ABC != abc
        ABCD != abcd
        AABB != aabb
        YES != NO
        2 != Option 2, 3
        \begin{vmatrix}1&2\\3&4\end{vmatrix} != [[1,2],[3,4]]
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != [[1,2],[3,4))
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != [1<x<2,3<x<4]
        \min(2,3) != 2 min 3
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != [[1,3],[2,4]]
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != [1,2,3,4]
        """,
    "numbers": r"""
        11/2 != 1 1/2
        10/3 != 2\frac{5}{3}
        12 != 1 2
        2.5 != 2 5
        1234 != 1, 234
        1,2 != 12
        1,23 != 123
        0.5 != 0,5
        1/0 != 2/0
        10^6 != 100000
        42 != 4.2
        1/2 != 2/1
        5 million != 5
        4210_7 != 4210
        4210_7 != 4210_8
        20:34 != 10:17
        17 != 17:1
        0.\overline{3} != 0.3
        3 != 3*
        """,
    "decimals too short or not exact": r"""
        1/3 != 0.33333
        2/3 != 0.66667
        \pi != 3.14159
        5 != 5.0000001
        5 != 4.9999999
        0.0000001 != 0.0000002
        0 != 10^{-9}
        0 != 0.00000000000000123456789012345
        0.3 != 0.300000000000040
        18 != 17.9999999999900
        1000000/3 != 333333
        \sqrt{2} \cdot 10^{-25} != \sqrt{3} \cdot 10^{-25}
        """,
    "percent, units": r"""
        0.75 != 75
        25\% != 2.5
        10 != 10m
        10 != 10ab
        2 != 2t
        5\text{ cm} != 5\text{ m}
        10\text{ cm}^2 != 10\text{ cm}^3
        60\text{ minutes} != 1\text{ hour}
        40\text{ points} != 40^\circ
        75\% != 75^\circ
        60\text{ mph} != 60 km/h
        35\text{ cm}^2 != 35 square meters
        12\text{ red balls} != 12 blue balls
        90 != \frac{\pi}{2}
        """,
    "hedged and contradictory": r"""
        2 != 2 or 3
        2 != 2, 3
        2 != \boxed{2} or \boxed{3}
        3 != \boxed{2}, \boxed{3}
        5 != 5 \text{ or } 6
        5 != 5 (not 6)
        5 != either 5 or 6
        5 != 5?
        5 != not 5
        5 != about 5
        5 != 5 or more
        5 != 5 \pm 1
        5 != 2+2=5
        5 != x=5=6
        5 != x>5
        5 != [4,6]
        5 != 5 \quad 6
        5 != 5;6
        42 != plain 42
        42 != it is 42, so \boxed{43}
        A != A or B
        A != (A), (B)
        A != (A) but maybe (B)
        yes != yes and no
        """,
    "words behind a number that are no unit": r"""
        5 != 5 dozen
        5 != 5 \text{ dozen}
        5 != 5 squared
        5 != 5 less than x
        5 != 5 factorial
        5 != 5 mod 7
        5 != 5 choose 2
        5 != 5 and a half
        5 != 5 is wrong
        5 != 5 \text{ if } x = 2
        24 != 24 abcd
        24 != 24 xyz
        """,
    "announcements that deny, doubt or add": r"""
        9 != The answer is not $9$.
        9 != $9$ is the wrong answer.
        9 != I doubt that the answer is 9.
        9 != It is false that the answer is 9.
        9 != The answer is $9$ or $10$.
        9 != The answer is 9? No.
        9 != The answer is 9. No, the answer is 10.
        9 != The wrong answer is 9.
        1 != it + 1
        x < 3 != We doubt that $x < 3$.
        x < 3 != It is wrong that $x < 3$.
        x < 3 != If we suppose that $x < 3$.
        x < 3 != We find that $x < 3$ or $x > 4$.
        """,
    "regions": r"""
        (0, 5) != x > 0 \text{ or } x < 5
        (-2, 2) != |x| \leq 2
        (-2, 2) != |x| > 2
        (-2, 2) != |x| < 3
        (-2, 2) != |x - 1| < 2
        (0, 5) != x > 5 \text{ and } x < 0
        (0, 5) != 0 \leq x, x < 5
        (0, 5) != x > 0, y < 5
        (0, 5) != x > 0, x > 5
        x < 1 \text{ and } x > 2 != x < 0 \text{ and } x > 5
        x \neq 0 != x \neq 1
        x \neq 0 != x = 0
        x \neq -1, 1 != \mathbb{R} \setminus \{-1\}
        (-\infty,2)\cup(2,\infty) != x \neq 3
        (3, 4) != \begin{pmatrix} 4 \\ 3 \end{pmatrix}
        [3, 4] != \begin{pmatrix} 3 \\ 4 \end{pmatrix}
        """,
    "several values": r"""
        1, 2, 3 != 1, 2
        1, 2, 2 != 1, 2
        \pm 3 != 3
        x=3, y=4 != x=4, y=3
        x=3, y=4 != 4, 3
        p=5,q=2;p=7,q=2 != p=2,q=5;p=2,q=7
        (1,2,3) != (3,2,1)
        (1,2) != (2,1)
        (1,2) != 1,2
        (1,2) != \{1,2\}
        [1,2] != x=1, y=2
        [1,2) != x=1, y=2
        \{1,2,3\} != x=1, y=2, z=3
        [1,2] != (1,2)
        [1,2] != \{1,2\}
        (0,1)\cup(2,3) != (0,3)
        x>3 != [3,\infty)
        x>3 != y>3
        (3,\infty) != \{x \mid x \geq 3\}
        (0,\infty) != \mathbb{R}
        \{1,2\}\cup\{3\} != \{1,2\}
        \{1,2\} != \{1\}
        \{1\} != \{1,2\}
        \{1,2,3\} != \{3,1\}
        \{1,2\} != \{1,1\}
        1,2 != \{1\}
        \begin{pmatrix}1&2\\3&4\end{pmatrix} != \begin{vmatrix}1&2\\3&4\end{vmatrix}
        \begin{pmatrix}1\\2\end{pmatrix} != \begin{pmatrix}1&2\end{pmatrix}
        """,
    "equations": r"""
        x=7 != y=7
        7 != 2x=7
        5 != x^2=5
        5 != -x=5
        5 != \sqrt{x}=5
        5 != x+1=5
        \sin(x)=\frac{42}{59} != \cos(x)=\frac{42}{59}
        f(x)=x^2 != g(x)=x^2
        y=2x+1 != y=2x-1
        y=2x+1 != 2x+2
        x+y<2 != x+y>2
        x \neq 2 != x=2
        (a,b)=(1,2) != (b,a)=(1,2)
        """,
    "expressions": r"""
        x != X
        V+v != 2v
        2e != 2E
        \sqrt{x^2} != x
        \sqrt{2}+\sqrt{3} != \sqrt{5}
        \sin^{-1} x != \frac{1}{\sin x}
        \sin(x+y) != \sin x+\sin y
        \log 2 != \ln 2
        f(x) != f'(x)
        x_1 != x_2
        \vec{a} != a
        2+3i != 2-3i
        i != 1
        \infty != -\infty
        \infty != 2\infty+x
        \frac{a+b}{c} != a+b/c
        \sum_{k=1}^n k != \sum_{k=0}^{n-1} k
        \sum_{k=1}^n k != \frac{n(n-1)}{2}
        \sum_{k=0}^{\infty} 2^{-k} != 1
        x+1 != not math
        """,
    "words and choices": r"""
        odd != \text{oddd}
        \text{listen} != silent
        \text{Yes} != No
        E != \mathrm{E}*2
        B != (C) B
        \text{None} != 0
        \overline{AB} != \overline{CD}
        """,
}


def _pairs(tables: dict[str, str], sign: str) -> list[tuple[str, str]]:
    lines = [line.strip() for table in tables.values() for line in table.splitlines() if line.strip()]
    return [(reference, candidate) for reference, _, candidate in (line.partition(sign) for line in lines)]


@pytest.mark.parametrize("topic", EQUAL)
def test_equal_answers_match(topic):
    pairs = _pairs({topic: EQUAL[topic]}, " == ")
    wrong = [pair for pair, grade in zip(pairs, grade_many(pairs), strict=True) if grade.status != "match"]
    assert not wrong


@pytest.mark.parametrize("topic", DIFFERENT)
def test_different_answers_do_not_match_in_either_order(topic):
    pairs = _pairs({topic: DIFFERENT[topic]}, " != ")
    pairs += [(candidate, reference) for reference, candidate in pairs]
    wrong = [pair for pair, grade in zip(pairs, grade_many(pairs), strict=True) if grade.status != "mismatch"]
    assert not wrong


@pytest.mark.parametrize("empty", ["", " ", "$", r"\boxed{}", r"\boxed{", r"\boxed{ }", r"\text{}", "."])
def test_empty_equals_nothing(empty):
    for other in ("", "0", "x", r"\emptyset", r"\text{none}", empty):
        assert not grade_math(other, empty)
        assert not grade_math(empty, other)


@pytest.mark.parametrize("kind", rewritten_answers.KINDS)
def test_answers_rewritten_by_chance_are_right_with_no_false_accept(kind):
    pairs = rewritten_answers.pairs(kind, 60, seed=0)
    grades = grade_many([(pair.reference, pair.candidate) for pair in pairs])
    wrong = [pair for pair, grade in zip(pairs, grades, strict=True) if grade.match != pair.is_match]
    assert not [pair for pair in wrong if not pair.is_match]
    assert len(wrong) <= 0.015 * len(pairs)


@pytest.mark.parametrize("other", [None, b"3", bytearray(b"3"), True, ["3"], {}, object(), 3 + 0j, "\ud800"])
def test_what_is_neither_text_nor_number_is_no_answer(other):
    assert not grade_math("3", other)
    assert not grade_math(other, "3")


def test_the_name_of_what_is_no_text_is_no_answer():
    pairs: list[Any] = [("True", True), ("None", None), (None, None)]
    assert [grade.status for grade in grade_many(pairs)] == ["no_answer", "no_answer", "error"]


def test_numbers_are_taken_as_their_text():
    assert grade_math(3, 3)
    assert grade_math(0.5, r"\frac{1}{2}")
    assert not grade_math("3", float("nan"))


@pytest.mark.slow
def test_the_status_says_why_there_is_no_match():
    pairs = [
        ("1/2", "0.5"),
        ("1/2", "2"),
        ("1/2", r"the box \boxed{0.5 never closes"),
        ("1/2", ""),
        ("", "1/2"),
        ("x+1", r"\sum_{a=1}^{900}\sum_{b=1}^{900}\sum_{c=1}^{900}\frac{1}{a+b+c}"),
    ]
    statuses = [grade.status for grade in grade_many(pairs)]
    assert statuses == ["match", "mismatch", "no_answer", "no_answer", "error", "timeout"]


def test_beyond_the_caps_only_the_same_text_matches():
    long_sum = "+".join(["x"] * 1_500)
    for text in ("7" * 100_000, long_sum, "\u202e3", "3\x00"):
        assert grade_math(text, text)
        assert not grade_math(text, f"{text}+0")


def test_no_text_reaches_the_parsers_that_evaluate_python(monkeypatch, tmp_path):
    """Grades in this process, where math-verify's and sympy's evaluating parsers are made to fail."""
    import latex2sympy2_extended.latex2sympy2
    import math_verify.parser
    import sympy.parsing
    import sympy.parsing.sympy_parser
    import sympy.physics.units  # `simplify` would, which sympifies the names of its own units

    sympy.hyperexpand(sympy.hyper([1], [2], sympy.Symbol("x")))  # and infinite sums the numbers of its tables

    def evaluated(text, *args, **kwargs):
        raise SystemExit(f"parse_expr was given {text!r}")  # no grader catches this

    for module in (
        latex2sympy2_extended.latex2sympy2,
        math_verify.parser,
        sympy.parsing,
        sympy.parsing.sympy_parser,  # `sympify` of a text takes it from here
    ):
        monkeypatch.setattr(module, "parse_expr", evaluated)
    with pytest.raises(SystemExit):
        sympy.sympify("1+1")
    monkeypatch.setattr(math_answers.grading_pool, "shared_pool", _PoolInThisProcess)
    canary = tmp_path / "canary"
    hostile = [text for text in hostile_answers(str(canary)) if "__" in text or "canary" in text]
    assert len(hostile) > 80
    equal = _pairs(EQUAL, " == ")
    assert not [pair for pair, grade in zip(equal, grade_many(equal), strict=True) if not grade.match]
    assert not any(grade.match for grade in grade_many(_pairs(DIFFERENT, " != ")))
    assert not any(grade.match for grade in grade_many([("x+1", text) for text in hostile]))
    assert not canary.exists()


class _PoolInThisProcess:
    def compare_many(self, pairs):
        return ["match" if self._is_match(*pair) else "mismatch" for pair in pairs]

    def _is_match(self, reference, candidate):
        return math_answers.answer_equivalence.equivalent(reference, candidate, symbolic.same_expression)


TOKENS = r"""
    \frac \sqrt { } ( ) [ ] \{ \} 1 2 x y i e \pi ^ _ + - * / = < > \le , ; and or \text{ cm % \% \circ . ' $
    \cup \infty \pm | ! \begin{pmatrix} \end{pmatrix} & \\ \ \sin \log \in : \approx \overline{ 0.5 1,000 A
    \mathbb{R} \left \right
    """


def test_random_tokens_are_graded_without_an_error():
    tokens = [*TOKENS.split(), " "]
    draw = random.Random(0)
    texts = ["".join(draw.choices(tokens, k=draw.randint(1, 25))) for _ in range(1_500)]
    for reference, candidate in zip(texts, texts[1:], strict=False):
        grade = math_answers._graded_at_once(reference, candidate)
        assert getattr(grade, "status", "open") != "error" or not math_answers._answer(reference), reference


def test_a_worker_imports_neither_jax_nor_numpy():
    program = (
        "import sys; from promptcot_jax.verify import grading_worker, math_answers, symbolic; "
        "print({'jax', 'numpy', 'flax', 'tensorflow'} & {name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert run.stdout.strip() == "set()"


def test_the_public_cases_are_right_with_no_false_accept():
    path = CASES / "math_equivalence.jsonl"
    if not path.exists():
        pytest.skip("the public grading cases are not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    scored = [row for row in rows if row["form"] != "unboxed" and row["kind"] != "disputed"]
    grades = grade_many([(row["gold"], row["pred"]) for row in scored])
    graded = list(zip(scored, grades, strict=True))
    assert not [row for row, grade in graded if grade.match and not row["match"]]
    assert sum(grade.match == row["match"] for row, grade in graded) / len(scored) >= 0.985


@pytest.mark.parametrize(
    "words",
    "tenths hundreds halves thirds dozens pairs negative repeating infinite undefined guess invalid times"
    " doubled lakh scores".split(),
)
def test_words_that_make_another_value_are_no_unit(words):
    assert not math_answers.grade_math("5", f"5 {words}")
    assert not math_answers.grade_math(f"5 {words}", "5")


@pytest.mark.parametrize("words", ["chickens", "real roots", "children", "light years", "pieces of fruit"])
def test_what_a_number_counts_is_its_unit(words):
    assert math_answers.grade_math("5", f"5 {words}")
