"""The memory of batches stays with the engine."""

import subprocess
import sys
from pathlib import Path

SERVICE = Path(__file__).parents[2] / "service"
# Works on 40 tensors of 64 MB one after another in a thread, as the device's, and prints how many pages were mapped for
# the last 30 of them; then what is resident once all is given back.
PROGRAM = """
import resource, threading
from pathlib import Path
import torch
from bedplate.engine import allocator

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

def work():
    for turn in range(40):
        if turn == 10:
            counted.append(faults())
        torch.ones(16 << 20)
    counted.append(faults())

counted = []
allocator.keep_memory()
worker = threading.Thread(target=work)
worker.start()
worker.join()
kept_mb = resident_mb()
allocator.give_back()
print(counted[1] - counted[0], kept_mb - resident_mb())
"""


def test_what_a_batch_used_is_there_for_the_next_one_and_goes_back_when_asked():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"PYTHONPATH": str(SERVICE)}, capture_output=True, text=True, check=True
    )

    pages, given_back_mb = map(int, done.stdout.split())
    # Each anew, they were 30 x 64 MB in pages of 4 KB: nearly half a million.
    assert pages < 1000
    assert given_back_mb >= 60
