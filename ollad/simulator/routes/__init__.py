"""The routes of the simulated server, a module a family; ``ROUTES`` in ``table`` lists them all."""
