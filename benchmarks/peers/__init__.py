"""Bedplate and its peers, measured side by side in one run (docs/benchmarks/README.md).

    python -m benchmarks.peers [--only bedplate,mosec] [--models tiny,cnn,transformer] [--quick]

A peer is a folder here: `__init__.py` says how it is set up and started, `server.py` runs in an environment of its own
that `requirements.txt` describes, and all of them share `serving.py`.
"""
