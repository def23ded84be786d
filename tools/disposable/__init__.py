"""Disposable hosts: real systemd in systemd-nspawn, own addresses on a bridge, plain SSH.

Runs with the system's python3 (3.9 or later) as root, before any virtualenv exists: standard library only.
"""
