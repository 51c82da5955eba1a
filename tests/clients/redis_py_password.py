"""A password set while clients are connected, told by redis-py in both protocols."""
import os
import socket

import redis

PORT = int(os.environ["PORT"])
PASSWORD = "gr\u00fc\u00dfe, 'all' of you"


def client(**options):
    return redis.Redis(host="127.0.0.1", port=PORT, **options)


def refused(error, words, work):
    try:
        work()
    except error as refusal:
        assert words in str(refusal), refusal
        return
    raise AssertionError(f"nobody said: {words}")


def raw(request):
    """The first line that a stranger hears."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as stranger:
        stranger.sendall(request)
        return stranger.makefile("rb").readline()


def story(protocol):
    early = client(protocol=protocol)
    assert early.set("k", "v")
    assert early.config_set("requirepass", PASSWORD)
    # Who was let in before stays in.
    assert early.get("k") == b"v"
    assert early.config_get("requirepass") == {"requirepass": PASSWORD}

    refused(redis.AuthenticationError, "uthenticat", client(protocol=protocol).ping)
    for wrong in ({"password": "nope"}, {"password": PASSWORD, "username": "nobody"}):
        refused(redis.AuthenticationError, "invalid username-password pair", client(protocol=protocol, **wrong).ping)
    for right in ({"password": PASSWORD}, {"password": PASSWORD, "username": "default"}):
        assert client(protocol=protocol, **right).get("k") == b"v"
    assert client(protocol=protocol, password=PASSWORD, db=3).set("k", "in three")

    # Nothing is run for a stranger, in whichever protocol, and each wrong turn has its word.
    assert raw(b"GET k\r\n") == b"-NOAUTH Authentication required.\r\n"
    assert raw(b"EXEC\r\n").startswith(b"-EXECABORT Transaction discarded because of: NOAUTH")
    assert raw(b"HELLO 3\r\n").startswith(b"-NOAUTH HELLO must be called")
    assert raw(b"AUTH nope\r\n").startswith(b"-WRONGPASS ")
    # JSON has no word for a password, so it is off.
    assert raw(b'{"Get":{"key":"k"}}\n').startswith(b"-")

    assert early.config_set("requirepass", "")
    assert client(protocol=protocol).get("k") == b"v"
    refused(redis.AuthenticationError, "without any password", lambda: client().execute_command("AUTH", "x"))


for version in (2, 3):
    story(version)
print("redis-py", redis.__version__, "ok")
