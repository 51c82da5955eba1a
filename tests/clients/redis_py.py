"""redis-py against the server at PORT: pipelines, transactions, pools, threads, both protocols."""
import os
import threading
import time

import redis

PORT = int(os.environ["PORT"])


def client(**options):
    return redis.Redis(host="127.0.0.1", port=PORT, **options)


def strings(r):
    r.flushall()
    assert r.ping()
    assert r.set("k", "v") and r.get("k") == b"v"
    assert r.get("absent") is None
    assert r.set("k", "w", nx=True) is None
    assert r.set("k", "w", xx=True, get=True) == b"v"
    assert r.set("t", "v", ex=100) and 90 < r.ttl("t") <= 100
    assert r.set("t", "w", keepttl=True) and r.ttl("t") > 0
    assert r.set("t", "w", px=100_000) and 90_000 < r.pttl("t") <= 100_000
    at = int(time.time()) + 1_000
    assert r.set("t", "w", exat=at) and r.expiretime("t") == at
    assert r.persist("t") and r.ttl("t") == -1 and r.ttl("absent") == -2
    assert r.expire("t", 100, nx=True) and not r.expire("t", 50, gt=True)
    assert r.expire("t", 50, lt=True)
    assert r.getex("t", persist=True) == b"w" and r.getdel("t") == b"w"
    binary = bytes(range(256)) * 100
    assert r.set(binary[:256], binary) and r.get(binary[:256]) == binary
    assert r.append("k", "x" * 5) == 6 and r.strlen("k") == 6
    assert r.getrange("k", 1, 2) == b"xx" and r.setrange("k", 8, "!") == 9
    assert r.incr("n") == 1 and r.incrby("n", 41) == 42 and r.decr("n") == 41
    assert r.incrbyfloat("n", "0.5") == 41.5
    assert r.mset({"a": 1, "b": 2}) and r.mget("a", "b", "c") == [b"1", b"2", None]
    assert not r.msetnx({"a": 1, "new": 2}) and r.exists("a", "b", "new") == 2
    assert r.delete("a", "b", "c") == 2 and r.unlink("n") == 1
    assert r.type("k") == "string" or r.type("k") == b"string"
    assert r.rename("k", "renamed") and r.copy("renamed", "copied") and not r.renamenx("renamed", "copied")
    try:
        r.incr("copied")
        raise AssertionError("INCR of a text")
    except redis.ResponseError as error:
        assert "not an integer" in str(error)


def listing(r):
    r.flushdb()
    names = {f"user:{i}".encode() for i in range(500)}
    pipe = r.pipeline(transaction=False)
    for name in names:
        pipe.set(name, "x")
    pipe.set("other", "x")
    assert all(pipe.execute())
    assert set(r.scan_iter("user:*", count=50)) == names
    assert set(r.scan_iter("user:*", count=50, _type="string")) == names
    assert set(r.keys("user:*")) == names
    assert r.dbsize() == 501 and r.randomkey() in names | {b"other"}


def pipelines(r):
    with r.pipeline(transaction=True) as pipe:
        assert pipe.set("p", 1).incr("p").get("p").execute() == [True, 2, b"2"]
    with r.pipeline(transaction=True) as pipe:
        pipe.set("p", "text").incr("p").get("p")
        replies = pipe.execute(raise_on_error=False)
        assert replies[0] is True and isinstance(replies[1], redis.ResponseError)
        assert replies[2] == b"text"
    with r.pipeline(transaction=False) as pipe:
        for i in range(1_000):
            pipe.set(f"many:{i}", i)
        assert all(pipe.execute())


def watched(r, workers=4, times=25):
    """The counter that everyone adds to by WATCH loses nothing."""
    r.set("watched", 0)

    def add():
        for _ in range(times):
            while True:
                with r.pipeline() as pipe:
                    try:
                        pipe.watch("watched")
                        now = int(pipe.get("watched"))
                        pipe.multi()
                        pipe.set("watched", now + 1)
                        pipe.execute()
                        break
                    except redis.WatchError:
                        continue

    in_threads(add, workers)
    assert int(r.get("watched")) == workers * times


def in_threads(work, count):
    failures = []

    def guarded():
        try:
            work()
        except BaseException as error:  # noqa: BLE001 -- told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def pools(protocol):
    pool = redis.BlockingConnectionPool(
        host="127.0.0.1", port=PORT, protocol=protocol, max_connections=4, timeout=20
    )
    r = redis.Redis(connection_pool=pool)
    r.delete("pooled")
    in_threads(lambda: [r.incr("pooled") for _ in range(50)], 8)
    assert int(r.get("pooled")) == 400
    pool.disconnect()


def options(protocol):
    r = client(protocol=protocol, db=5, client_name="story", decode_responses=True, health_check_interval=1)
    r.flushdb()
    assert r.client_getname() == "story"
    assert r.set("k", "gr\u00fc\u00df") and r.get("k") == "gr\u00fc\u00df"
    assert client(protocol=protocol).get("k") != "gr\u00fc\u00df".encode()
    time.sleep(1.2)
    assert r.get("k") == "gr\u00fc\u00df"
    assert r.move("k", 6) and not r.exists("k")
    assert client(protocol=protocol, db=6, decode_responses=True).getdel("k") == "gr\u00fc\u00df"
    info = r.info()
    assert info["redis_version"] and info["role"] == "master" and info["loading"] == 0
    assert any(one["name"] == "story" for one in r.client_list())
    assert r.client_id() > 0 and r.client_info()["db"] == 5
    assert r.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert r.command_count() > 50 and "get" in r.command()
    assert r.time()[0] > 0 and r.echo("hello") == "hello" and r.lastsave()
    if protocol == 3:
        assert r.execute_command("HELLO", 3)["proto"] == 3


def channels(protocol):
    """A listener in a thread of its own hears every message, in order, and its patterns."""
    r = client(protocol=protocol)
    listener = client(protocol=protocol).pubsub()
    listener.subscribe("news", "sport")
    listener.psubscribe("n*")
    confirmed = [listener.get_message(timeout=10) for _ in range(3)]
    assert [m["type"] for m in confirmed] == ["subscribe", "subscribe", "psubscribe"], confirmed
    assert r.publish("news", "hello") == 2 and r.publish("nobody", "x") == 1
    kinds = {(m["type"], m["channel"]) for m in (listener.get_message(timeout=10) for _ in range(3))}
    assert kinds == {("message", b"news"), ("pmessage", b"news"), ("pmessage", b"nobody")}, kinds
    assert listener.ping() is None
    listener.unsubscribe()
    listener.punsubscribe()
    while listener.subscribed:
        listener.get_message(timeout=10)

    heard = []
    listener.subscribe(**{"many": lambda message: heard.append(message["data"])})
    thread = listener.run_in_thread(sleep_time=0.01, daemon=True)
    while r.pubsub_numsub("many")[0][1] == 0:
        time.sleep(0.01)
    for number in range(500):
        assert r.publish("many", number) == 1
    end = time.time() + 30
    while len(heard) < 500 and time.time() < end:
        time.sleep(0.01)
    assert heard == [str(number).encode() for number in range(500)], len(heard)
    assert r.pubsub_channels("m*") == [b"many"] and r.pubsub_numpat() == 0
    thread.stop()
    thread.join()


for version in (2, 3):
    channels(version)
    connection = client(protocol=version)
    strings(connection)
    listing(connection)
    pipelines(connection)
    watched(connection)
    pools(version)
    options(version)
# The default of the library, whatever it is.
default = client()
assert default.set("default", "yes") and default.get("default") == b"yes"
print("redis-py", redis.__version__, "ok")
