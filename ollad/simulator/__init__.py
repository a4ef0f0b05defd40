"""A stand-in SGLang server: a pure model of the engine, and the HTTP face of a real one.

``tokens``, ``completion``, ``radix`` and ``engine`` do no I/O and own no clock: a discrete-event
simulation can drive them as well as the server here does. ``server`` puts HTTP in front.
"""
