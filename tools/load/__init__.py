"""An open-loop load generator with a ledger.

    python -m tools.load --url https://lb1/v1/models/digits/predict --ca ca.pem --header-file key.txt \\
        --rate 100 --seconds 60 --ledger ledger.jsonl --max-failed 0 images/*.png

Requests leave on a fixed schedule however slow the answers are, and latency counts from the moment a request was due.
A closed-loop tool waits for the server, so an outage looks to it like a few slow requests or thousands of fast errors.
"""
