"""The library `limits`, which Flask-Limiter and slowapi use, on the server at PORT: its windows of
plain counters. (Its moving window needs lists.)"""
import os

from limits import RateLimitItemPerMinute, storage, strategies

store = storage.storage_from_string(f"redis://127.0.0.1:{os.environ['PORT']}")
assert store.check()
store.reset()
for strategy in (strategies.FixedWindowRateLimiter, strategies.SlidingWindowCounterRateLimiter):
    limiter = strategy(store)
    item = RateLimitItemPerMinute(3, namespace=strategy.__name__)
    allowed = [limiter.hit(item, "someone") for _ in range(5)]
    # A minute may begin in the middle.
    assert allowed[:3] == [True] * 3 and not all(allowed), (strategy.__name__, allowed)
    assert limiter.hit(item, "another")
    stats = limiter.get_window_stats(item, "another")
    assert stats.remaining == 2, stats
    limiter.clear(item, "someone")
    assert limiter.hit(item, "someone")
print("limits ok")
