"""Addresses for blocks whose lifetimes are known: no overlap in address x time, within a capacity or as low as can be.

Floor by floor: `blocks` (what is packed, who lives together), `heuristics` (first fit; a skyline with learnt
priorities), `search` (exact, on CP-SAT) and `pack`, which uses them in this order.
"""

from formulations.packing.blocks import Block, blocks_of
from formulations.packing.pack import Lowest, Packing, fewer_in_conflict, find_lowest, find_packing, pack

__all__ = ["Block", "Lowest", "Packing", "blocks_of", "fewer_in_conflict", "find_lowest", "find_packing", "pack"]
