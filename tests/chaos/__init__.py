"""Chaos: a daemon under load whose backends are killed, stopped, cut off and made to lie.

``python -m tests.chaos``, or ``make chaos``; docs/chaos.md says what is counted. ``plan`` and
``judge`` are pure; ``load``, ``injector``, ``backends``, ``network`` and ``daemon`` act.
"""
