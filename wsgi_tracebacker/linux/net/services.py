"""The usual server behind a port, or behind the name of a UNIX socket."""

from __future__ import annotations

import os

#: The usual servers of ports, and of the names of UNIX sockets.
_SERVICES = {
    25: "smtp", 53: "dns", 389: "ldap", 465: "smtp", 587: "smtp", 636: "ldap", 1433: "sqlserver", 1521: "oracle",
    2181: "zookeeper", 2379: "etcd", 3306: "mysql", 4222: "nats", 5432: "postgresql", 5672: "amqp", 6379: "redis",
    6432: "pgbouncer", 8500: "consul", 9042: "cassandra", 9092: "kafka", 9200: "elasticsearch", 11211: "memcached",
    27017: "mongodb",
}  # fmt: skip
_SERVICES_OF_NAMES = {".s.PGSQL.": "postgresql", "mysql": "mysql", "maria": "mysql", "redis": "redis"}


def service_of(peer: str | None, port: int | None) -> str | None:
    """The usual name of what listens there."""
    if port is not None:
        return _SERVICES.get(port)
    if peer is not None:
        return next((name for part, name in _SERVICES_OF_NAMES.items() if part in os.path.basename(peer)), None)
    return None
