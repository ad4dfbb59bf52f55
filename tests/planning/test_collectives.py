"""Collectives in small programs of XLA, counted by hand."""

from promptcot_jax.planning import collectives
from promptcot_jax.planning.collectives import Traffic

LOOPS = """
HloModule jit_run, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[] add(%x, %y)
}

%condition.1 (state: (s32[], bf16[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(28)
  %state = (s32[]{:T(128)}, bf16[8,4]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}

%condition.2 (state: (s32[], s32[])) -> pred[] {
  %state = (s32[], s32[]) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %limit = s32[] get-tuple-element(%state), index=1
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}

%fused (p: bf16[2,4]) -> bf16[8,4] {
  %p = bf16[2,4]{1,0} parameter(0)
  ROOT %gathered = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8]
}

%body.2 (state: (s32[], s32[])) -> (s32[], s32[]) {
  %state = (s32[], s32[]) parameter(0)
  %sums = f32[10]{0} all-reduce(%grads), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %next = (s32[], s32[]) tuple(%a, %b)
}

%body.1 (state: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %state = (s32[], bf16[8,4]) parameter(0)
  %one = bf16[8,4]{1,0} fusion(%w), kind=kCustom, calls=%fused
  %again = bf16[8,4]{1,0} fusion(%w), kind=kCustom, calls=%fused
  %inner = (s32[], s32[]) while(%init), condition=%condition.2, body=%body.2
  ROOT %next = (s32[], bf16[8,4]) tuple(%a, %one)
}

ENTRY %main.3 (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %loop = (s32[], bf16[8,4]) while(%init), condition=%condition.1, body=%body.1
  %known = (s32[]) while(%i), condition=%condition.2, body=%body.2, config={"known_trip_count":{"n":"5"}}
  %sent = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
  %done = f32[6]{0} collective-permute-done(%sent)
  ROOT %out = f32[4]{0} copy(%p)
}
"""


def test_loops_multiply_and_data_decides_the_steps_that_are_given():
    found = collectives.traffic(LOOPS, loop_steps=3)
    # The fused gather stands twice under one channel: 28 steps x 8*4 bf16 x 3/4 of the ring.
    assert found["all-gather"] == Traffic(28, 28 * 64 * 0.75)
    # 28 steps x 3 of the loop over data, and 5 of the one whose count is known; twice 40 bytes x 3/4.
    assert found["all-reduce"] == Traffic(28 * 3 + 5, (28 * 3 + 5) * 60.0)
    assert found["collective-permute"] == Traffic(1, 24.0)
    assert found.keys() == {"all-gather", "all-reduce", "collective-permute"}


def one(instruction: str) -> dict[str, Traffic]:
    return collectives.traffic(f"ENTRY %main (p: f32[4]) -> f32[4] {{\n  {instruction}\n}}\n")


def test_results_that_hold_operands_too_count_once():
    started = one("%g = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}")
    assert started == {"all-gather": Traffic(1, 24.0)}
    both = "%g = ((f32[2], f32[4]), (f32[8], f32[16])) all-gather-start(%p, %q), replica_groups=[2,4]<=[8]"
    assert one(both) == {"all-gather": Traffic(1, 72.0)}


def test_a_scattered_result_is_a_share_of_what_was_sent():
    scattered = (
        "%r = bf16[16]{0} reduce-scatter(%p), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add"
    )
    assert one(scattered) == {"reduce-scatter": Traffic(1, 32 * 7.0)}


def test_names_and_metadata_are_no_collectives():
    assert not one('%all-gather.3 = f32[8] copy(%p), metadata={op_name="jit(f)/all-gather"}')
    assert not one("%d = f32[8] all-gather-done(%all-gather-start)")
