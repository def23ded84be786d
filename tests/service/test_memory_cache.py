"""The first tier: what it keeps, for how long, in how much memory."""

import tracemalloc

from bedplate.web.cache.memory import ENTRY_BYTES, MemoryCache


def test_what_was_used_longest_ago_makes_room():
    cache = MemoryCache(max_bytes=2 * (ENTRY_BYTES + 100), ttl_s=60)
    cache.put("a", b"x" * 100)
    cache.put("b", b"x" * 100)
    cache.get("a")

    cache.put("c", b"x" * 100)

    assert [key for key in "abc" if cache.get(key)] == ["a", "c"]


def test_a_value_is_forgotten_when_its_time_is_over():
    now = [0.0]
    cache = MemoryCache(max_bytes=10_000, ttl_s=60, clock=lambda: now[0])
    cache.put("a", b"x")

    now[0] = 59.9
    assert cache.get("a") == b"x"
    now[0] = 60.0
    assert cache.get("a") is None
    assert cache.used_bytes == 0


def test_a_value_may_have_a_time_of_its_own():
    now = [0.0]
    cache = MemoryCache(max_bytes=10_000, ttl_s=60, clock=lambda: now[0])
    cache.put("a", b"x", ttl_s=30)

    now[0] = 29.9
    assert cache.get("a") == b"x"
    now[0] = 30.0
    assert cache.get("a") is None


def test_a_value_larger_than_the_whole_is_not_kept_and_pushes_nothing_out():
    cache = MemoryCache(max_bytes=1000, ttl_s=60)
    cache.put("a", b"x")

    cache.put("b", b"x" * 2000)

    assert (cache.get("a"), cache.get("b")) == (b"x", None)


def test_a_value_put_again_is_counted_once():
    cache = MemoryCache(max_bytes=10_000, ttl_s=60)

    for size in (10, 500, 20):
        cache.put("a", b"x" * size)

    assert cache.used_bytes == 20 + ENTRY_BYTES


def test_the_process_grows_by_no_more_than_the_bound():
    bound = 4 << 20
    cache = MemoryCache(bound, ttl_s=60)

    tracemalloc.start()
    for number in range(20_000):
        cache.put(f"{number:064d}", bytes(300))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert cache.used_bytes <= bound
    assert 0.5 * bound < taken <= bound
