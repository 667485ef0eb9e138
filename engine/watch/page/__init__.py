"""The page of a watcher: what a browser sees of the ledger and of the pictures; it changes neither.

::

    browser ─► access ─► app ─┬─► views   (JSON: state, lists, throughput, health)
              (who may ask)   ├─► slices  (grey values and labels of a slice, as pictures)
                              ├─► events  (what has changed, as it changes)
                              └─► static  (the page itself, read once at the start)
"""
