"""The page of a watcher: what a browser sees of the ledger and of the pictures; it changes neither.

::

    browser ─► access ─► app ─┬─► routes ─┬─► views   (JSON: state, lists, throughput, health)
              (who may ask)   │           ├─► events  (what has changed, as it changes)
                              │           └─► slices  (grey values and labels of a slice, as pictures)
                              └─► static  (the page itself, read once at the start)
"""
