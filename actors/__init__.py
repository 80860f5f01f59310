"""treesearch on Ray: thin actors that build a backend and forward, and what a cluster is started with."""
