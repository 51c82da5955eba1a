"""Django's own RedisCache and its sessions, on the server at PORT."""
import os
import time

import django
from django.conf import settings

PORT = os.environ["PORT"]
LOCATION = f"redis://127.0.0.1:{PORT}"
BACKEND = "django.core.cache.backends.redis.RedisCache"
settings.configure(
    CACHES={
        "default": {"BACKEND": BACKEND, "LOCATION": f"{LOCATION}/1", "KEY_PREFIX": "site", "VERSION": 1},
        "sessions": {"BACKEND": BACKEND, "LOCATION": f"{LOCATION}/2"},
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SESSION_CACHE_ALIAS="sessions",
    SECRET_KEY="of a test",
    USE_TZ=True,
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402 -- needs settings
from django.core.cache import cache, caches  # noqa: E402

cache.clear()
assert cache.get("absent") is None and cache.get("absent", "default") == "default"
cache.set("k", {"a": [1, 2, "three"]}, timeout=100)
assert cache.get("k") == {"a": [1, 2, "three"]}
assert cache.add("new", 1) and not cache.add("new", 2) and cache.get("new") == 1
cache.set_many({"one": 1, "two": 2, "three": "3"}, timeout=100)
assert cache.get_many(["one", "two", "three", "four"]) == {"one": 1, "two": 2, "three": "3"}
cache.set("n", 1)
assert cache.incr("n") == 2 and cache.incr("n", 40) == 42 and cache.decr("n") == 41
try:
    cache.incr("absent")
    raise AssertionError("incr of nothing")
except ValueError:
    pass
assert cache.touch("n", 50) and not cache.touch("absent", 50)
assert cache.has_key("n") and "n" in cache
cache.set("v", "second", version=2)
assert cache.get("v") is None and cache.get("v", version=2) == "second"
assert cache.incr_version("v", version=2) == 3 and cache.get("v", version=3) == "second"
assert cache.get_or_set("lazy", lambda: 5) == 5
cache.set("at-once", 1, timeout=0)
assert cache.get("at-once") is None
cache.set("for-ever", 1, timeout=None)
cache.set("soon", 1, timeout=1)
assert cache.delete("one") and not cache.delete("one")
cache.delete_many(["two", "three"])
assert cache.get_many(["one", "two", "three"]) == {}
time.sleep(1.3)
assert cache.get("soon") is None and cache.get("for-ever") == 1

session = SessionStore()
session["user"] = "arya"
session.save()
again = SessionStore(session.session_key)
assert again["user"] == "arya"
again.cycle_key()
assert not SessionStore().exists(session.session_key) and again["user"] == "arya"
again.flush()
cache.clear()
assert cache.get("for-ever") is None
caches["sessions"].clear()
print("Django", django.get_version(), "ok")
