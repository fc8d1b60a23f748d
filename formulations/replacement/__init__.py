"""Tensor replacement: order, addresses and what is kept, evicted and fetched again, for least off-chip traffic."""
