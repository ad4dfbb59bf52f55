"""Contests that tests make up, and the replies of Codeforces' API that would tell of them."""

import json

import numpy as np

from promptcot_jax.evaluation.codeforces import Contest, ContestProblem

LOGISTIC = 400 / np.log(10)  # scale of the noise with which chances of winning are those of Elo's formula


def contest(points, ratings, *, contest_id=1, penalties=None, problems=None):
    return Contest(
        contest_id=contest_id,
        problems=problems
        or (ContestProblem(index="A", points=500.0), ContestProblem(index="B", points=1000.0)),
        points=points,
        penalties=np.zeros(len(points)) if penalties is None else penalties,
        ratings=ratings,
    )


def performances(ratings, rng):
    """Rating + Gumbel noise, so that a player is ahead of another as often as Elo's formula says."""
    return ratings + LOGISTIC * rng.gumbel(size=np.shape(ratings))


def standings_reply(contest_id, problems, rows):
    """The reply of `contest.standings`; rows are (handles, participant type, points, penalty)."""
    return {
        "status": "OK",
        "result": {
            "contest": {"id": contest_id, "name": f"Round {contest_id}", "type": "CF", "phase": "FINISHED"},
            "problems": [{"contestId": contest_id, "type": "PROGRAMMING", **problem} for problem in problems],
            "rows": [
                {
                    "party": {
                        "contestId": contest_id,
                        "members": [{"handle": handle} for handle in handles],
                        "participantType": kind,
                        "ghost": False,
                    },
                    "rank": i + 1,
                    "points": points,
                    "penalty": penalty,
                    "problemResults": [],
                }
                for i, (handles, kind, points, penalty) in enumerate(rows)
            ],
        },
    }


def changes_reply(contest_id, old_ratings):
    """The reply of `contest.ratingChanges`."""
    return {
        "status": "OK",
        "result": [
            {"contestId": contest_id, "handle": handle, "rank": 1, "oldRating": old, "newRating": old + 9}
            for handle, old in old_ratings.items()
        ],
    }


def write(directory, contest_id, standings, changes):
    (directory / f"contest_{contest_id}.standings.json").write_text(json.dumps(standings))
    (directory / f"contest_{contest_id}.rating_changes.json").write_text(json.dumps(changes))
