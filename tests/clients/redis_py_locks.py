"""redis-py's Lock and its registered scripts, on the server at PORT."""
import os
import threading

import redis

client = redis.Redis(port=int(os.environ["PORT"]), decode_responses=True)
client.flushall()

lock = client.lock("lock", timeout=60)
assert lock.acquire(blocking=False) and lock.owned()
other = client.lock("lock", timeout=60)
assert not other.acquire(blocking=False)
lock.extend(60)
assert 60_000 < client.pttl("lock") <= 120_000
lock.extend(30, replace_ttl=True)
assert client.pttl("lock") <= 30_000
lock.reacquire()
lock.release()
assert client.exists("lock") == 0
try:
    lock.release()
    raise AssertionError("released twice")
except redis.exceptions.LockError:
    pass
with client.lock("lock", timeout=60):
    assert client.exists("lock") == 1
assert client.exists("lock") == 0

# A lock that is another's is left alone.
lock = client.lock("lock", timeout=60)
assert lock.acquire(blocking=False)
client.set("lock", "stolen")
try:
    lock.release()
    raise AssertionError("released another's lock")
except redis.exceptions.LockNotOwnedError:
    pass
assert client.get("lock") == "stolen"
client.delete("lock")

# Many threads count under a lock.
client.set("n", 0)


def count():
    own = redis.Redis(port=int(os.environ["PORT"]), decode_responses=True)
    for _ in range(20):
        with own.lock("counter", timeout=60, sleep=0.001):
            own.set("n", int(own.get("n")) + 1)


threads = [threading.Thread(target=count) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert client.get("n") == "80", client.get("n")

# Registered scripts, also after the server has forgotten them, and in a pipeline.
multiply = client.register_script(
    "local v = redis.call('GET', KEYS[1]) return tonumber(v) * tonumber(ARGV[1])"
)
client.set("k", 7)
assert multiply(keys=["k"], args=[6]) == 42
client.script_flush()
assert multiply(keys=["k"], args=[6]) == 42
assert client.script_exists(multiply.sha) == [True]
with client.pipeline() as pipe:
    pipe.set("k", 8)
    multiply(keys=["k"], args=[5], client=pipe)
    assert pipe.execute() == [True, 40]
for protocol in (2, 3):
    versioned = redis.Redis(port=int(os.environ["PORT"]), protocol=protocol)
    assert versioned.eval("return {1, 'two', {3, false}}", 0) == [1, b"two", [3, None]]
    try:
        versioned.eval("return redis.call('NOSUCH')", 0)
        raise AssertionError("no error")
    except redis.exceptions.ResponseError as error:
        assert "Unknown Redis command called from script" in str(error), error
print("redis-py's locks and scripts ok")
