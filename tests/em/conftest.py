"""Models and runs that several test modules look at."""

import pytest

from tests.em import toy_em


@pytest.fixture(scope="session")
def cold(tmp_path_factory):
    """theta and phi after a cold start."""
    return toy_em.cold_started(tmp_path_factory.mktemp("cold"))


@pytest.fixture(scope="session")
def whole(cold, tmp_path_factory):
    """An uninterrupted run of two rounds, and its counts."""
    em = toy_em.make_em(cold, tmp_path_factory.mktemp("em"))
    return em, toy_em.run(cold, em)
