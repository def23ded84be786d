"""What `bedplate bundle optimize` brings: Bedplate as it found best, Bedplate as bundles say, and the best peer.

All three serve the same weights on the same cores, two processes of one thread each, to 16 clients. `trained.py` makes
networks whose accuracy means something, `forms.py` lets optimize choose, `sides.py` asks all three.
"""
