"""Flask-Session with SESSION_TYPE redis, and cachelib's RedisCache, on the server at PORT."""
import importlib.metadata
import os

import redis
from cachelib.redis import RedisCache
from flask import Flask, session
from flask_session import Session

PORT = int(os.environ["PORT"])
store = redis.Redis(host="127.0.0.1", port=PORT, db=3)
store.flushdb()

app = Flask(__name__)
app.config.update(SESSION_TYPE="redis", SESSION_REDIS=store, SESSION_PERMANENT=True)
Session(app)


@app.get("/count")
def count():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


@app.get("/leave")
def leave():
    session.clear()
    return "gone"


one, other = app.test_client(), app.test_client()
assert [one.get("/count").text for _ in range(3)] == ["1", "2", "3"]
assert other.get("/count").text == "1"
assert store.dbsize() == 2 and store.ttl(store.randomkey()) > 0
assert one.get("/leave").text == "gone"
assert store.dbsize() == 1
assert one.get("/count").text == "1"

cache = RedisCache(host="127.0.0.1", port=PORT, db=4, key_prefix="lib:")
cache.clear()
assert cache.set("k", {"v": 1}, timeout=60) and cache.get("k") == {"v": 1}
assert cache.add("k", 2) is False and cache.add("new", 2)
assert cache.set_many({"a": 1, "b": 2}) and cache.get_many("a", "b", "c") == [1, 2, None]
assert cache.inc("n", 5) == 5 and cache.dec("n", 2) == 3
assert cache.has("a") and cache.delete("a") and not cache.has("a")
assert cache.delete_many("b", "k")
assert cache.clear()
print("Flask-Session", importlib.metadata.version("flask-session"), "ok")
