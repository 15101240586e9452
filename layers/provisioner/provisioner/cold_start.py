"""The start of a function, without garbage collection.

What imports and clients make lives as long as the process: looking through it for garbage, again
and again while it grows, finds nothing. Importing this module switches the collector off, so a
handler imports it before the rest of the package. Source: Python documentation, "gc".
"""

import gc

gc.disable()


def end() -> None:
    """Leave what has been made so far out of every later collection, and collect from now on."""
    gc.freeze()
    gc.enable()
