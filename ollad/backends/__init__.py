"""The state of one upstream and of the pool of them."""
