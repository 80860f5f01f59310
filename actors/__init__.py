"""treesearch on Ray: thin actors around the same backends and the same engine as in one process."""
