"""Self-play of the toy on one of several hosts, as a command:

    python -m tests.trainers.self_play_host TRAINER,... MESH --workdir=DIR --coordinator_address=... ...

Each trainer of `toy_self_play.TRAINERS` leaves DIR/TRAINER with `final.npz`, the policy's parameters; MESH is
a mesh's axes as JSON. DIR-graded-INDEX has a line for each completion that host INDEX graded; what each opens
for writing is listed (`tests.run.watched`).
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from promptcot_jax.checkpoints import store
from promptcot_jax.models import causal_lm
from promptcot_jax.parallel import hosts, placing, rules
from promptcot_jax.parallel import mesh as mesh_lib
from tests.run import watched
from tests.trainers import toy_self_play

PLACE = {"coordinator_address": str, "process_count": int, "process_index": int, "start_seconds": float}


def play(directory: Path, trainer: str, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """The policy's parameters by name, on every host, after iterations with two micro-batches a step."""
    plain = toy_self_play.toy_lm()
    lm = causal_lm.CausalLM(plain.config, rules.DEFAULT_RULES)
    start = jax.device_get(plain.init(jax.random.key(0)))
    graded = open(f"{directory.parent}-graded-{hosts.index()}", "a")

    def verdict(answer: str, text: str) -> bool:
        print(trainer, file=graded, flush=True)
        return toy_self_play.some_are_easy(answer, text)

    outcome = toy_self_play.run(
        directory,
        lm=lm,
        params=placing.place(start, rules.sharding_tree(mesh, lm.logical_axes(), start)),
        mesh=mesh,
        verdict=verdict,
        config=dataclasses.replace(toy_self_play.SHORT, micro_batches=2),
        held_out=dataclasses.replace(
            toy_self_play.held_out(directory, verdict=toy_self_play.some_are_easy), lm=lm
        ),
        **toy_self_play.TRAINERS[trainer],
    )
    return {name: placing.to_host(leaf) for name, leaf in store.named_leaves(outcome.params).items()}


def main() -> None:
    """Joins the other hosts, then plays."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainers", type=lambda names: names.split(","))
    parser.add_argument("mesh", type=json.loads)
    parser.add_argument("--workdir", type=Path)
    for name, kind in PLACE.items():
        parser.add_argument(f"--{name}", type=kind)
    flags = parser.parse_args()
    watched.watch(sys.argv[1:])
    hosts.start(hosts.HostsConfig(**{name: getattr(flags, name) for name in PLACE}), "toy self-play")
    mesh = mesh_lib.make_mesh(mesh_lib.MeshConfig(**flags.mesh))
    for trainer in flags.trainers:
        params = play(flags.workdir / trainer, trainer, mesh)
        if hosts.is_first():
            np.savez(flags.workdir / trainer / "final.npz", **params)
    hosts.barrier("done")


if __name__ == "__main__":
    main()
