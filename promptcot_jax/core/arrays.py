"""Array types of the whole package.

Axis letters, everywhere: `B` rows, `G` samples per row (rationales per problem, rollouts per prompt), `T`
query length, `S` key / cache length, `D` embed, `F` mlp, `N` query heads, `K` key-value heads, `H` head dim,
`V` vocab, `L` layers.
"""

from typing import Any

from jaxtyping import Array, Bool, Float, Int, UInt

HostOrDevice = Any  # an array that the host fills and a compiled program reads: Int[HostOrDevice, "B T"]
Params = dict[str, Any]  # nested dict of arrays; outside `models/` a model is (apply function, Params)

__all__ = ["Array", "Bool", "Float", "HostOrDevice", "Int", "Params", "UInt"]
