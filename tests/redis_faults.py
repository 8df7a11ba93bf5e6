"""What can happen to a Redis while it is used."""

from tests.redis_servers import RedisServer

FAULTS = ["killed", "stopped", "emptied", "read-only", "out of memory", "paused", "locked"]
PASSING = ["emptied", "paused", "asleep"]
"""These are over before they are noticed, or soon after."""

DEBUGGABLE = ("--enable-debug-command", "yes")
"""What a server has to be started with to fall asleep."""


def away(server: RedisServer, how: str) -> None:
    match how:
        case "killed":
            server.kill()
        case "stopped":
            server.stop()
        case "emptied":
            server.empty()
        case "read-only":
            server.ask("REPLICAOF", "127.0.0.1", "1")
        case "out of memory":
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            server.ask("CONFIG", "SET", "maxmemory", "1")
        case "paused":
            server.ask("CLIENT", "PAUSE", "3000")
        case "asleep":
            server.ask("DEBUG", "SLEEP", "3")
        case "locked":
            server.ask("CONFIG", "SET", "requirepass", "pass-of-a-test")
            server.admin["password"] = "pass-of-a-test"
            server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")


def back(server: RedisServer, how: str) -> None:
    match how:
        case "killed":
            server.start()
        case "stopped":
            server.go_on()
        case "read-only":
            server.ask("REPLICAOF", "NO", "ONE")
        case "out of memory":
            server.ask("CONFIG", "SET", "maxmemory", "0")
        case "locked":
            server.ask("CONFIG", "SET", "requirepass", "")
            server.admin.clear()
