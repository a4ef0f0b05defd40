"""Facts of the SGLang engine: its routes, the shapes of its replies, the names of its metrics.

Nothing here does I/O; every function is total over whatever a server may send.
"""
