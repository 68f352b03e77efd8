"""How big a cache would have to be: access logs replayed over the orders of eviction."""
