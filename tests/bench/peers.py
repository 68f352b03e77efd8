"""The servers that are measured: streamcache and its peers, each a tree of processes with one port.

All serve the files below one directory, or fetch them from an HTTP origin, at the root of their
URL. Those that cache begin with an empty cache in the directory that they are given.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench import processes, programs
from tests.bench.machine import REPOSITORY
from tests.daemon_process import DaemonProcess

STARTED = 30.0  # s
DESCRIPTORS = 20_000


class Server:
    """A context manager: inside it runs. ``name`` is that of the table."""

    def __init__(self, name: str, directory: Path) -> None:
        """``directory`` is made when it starts: for configuration, logs and the cache."""
        self.name = name
        self.directory = directory
        self.address = ("127.0.0.1", 0)
        self.pid = 0

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {self.name} pid={self.pid} port={self.address[1]}>"

    def start(self) -> None:
        """Set ``address`` and ``pid``. Raises NotHere."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it, and wait."""
        raise NotImplementedError

    @property
    def cpu(self) -> float:
        """CPU seconds of all its processes so far."""
        return processes.cpu_seconds(self.pid)

    @property
    def memory(self) -> int:
        """Bytes of user memory of all its processes."""
        return processes.memory(self.pid)


class StreamCache(Server):
    """The daemon, all duties on: the access log goes to a file."""

    def __init__(
        self,
        source: Path,
        directory: Path,
        *flags: str,
        workers: int = 1,
        connections: int = 0,
        module: str = "streamcache",
    ) -> None:
        """``connections``: more than half of the descriptors that a process may have."""
        super().__init__("streamcache", directory)
        self.cache = directory / "cache"
        self._source = source
        self.module = module
        self._flags = ("--log-level", "warning", "--workers", str(workers), *flags)
        self._environment = {"STREAMCACHE_LOG_ACCESS": str(directory / "access.log")}
        if connections:
            self._environment["STREAMCACHE_LIMITS_CONNECTIONS"] = str(connections)
        self._process: DaemonProcess | None = None

    def start(self) -> None:
        self._process = DaemonProcess(
            self._source,
            *self._flags,
            cache_dir=self.cache,
            cache_size="30GB",
            module=self.module,
            environment=self._environment,
        )
        self.address, self.pid = self._process.address, self._process.pid

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # nobody waits for a drain
            process.close()

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        assert self._process is not None
        return self._process.log

    def objects(self) -> list[Path]:
        """The complete files in its cache."""
        return sorted(path for path in self.cache.glob("objects/*/*") if path.is_file())


class Program(Server):
    """A server that is one command, which stays in the foreground."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, port: int) -> Sequence[str]:
        """Write what it needs to ``directory``; the command that serves on this port."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Of the process."""
        return os.environ

    def start(self) -> None:
        port = free_port()
        command = self.command(port)
        with open(self.directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=dict(self.environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.address, self.pid = ("127.0.0.1", port), self._process.pid
        deadline = time.monotonic() + STARTED
        while not _accepts(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{shlex.join(command)}: {self.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            family = [stat.pid for stat in processes.tree(process.pid)]
            for pid in family:
                os.kill(pid, signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        """The end of what it printed."""
        return (self.directory / "log").read_text(errors="replace")[-2000:].strip()


class Nginx(Program):
    """Static files; the limit of the machine."""

    def __init__(
        self,
        root: Path,
        directory: Path,
        *,
        name: str = "nginx",
        workers: int = 1,
        sendfile: bool = True,
        access_log: bool = False,
    ) -> None:
        super().__init__(name, directory)
        self._root = root
        self._workers = workers
        self._sendfile = "on" if sendfile else "off"
        log = f"{directory}/access.log combined buffer=64k flush=1s"
        self._access_log = log if access_log else "off"

    def command(self, port: int) -> Sequence[str]:
        conf = self.directory / "nginx.conf"
        conf.write_text(
            _NGINX.format(
                user="user root;" if os.geteuid() == 0 else "",
                workers=self._workers,
                descriptors=DESCRIPTORS,
                directory=self.directory,
                sendfile=self._sendfile,
                access_log=self._access_log,
                outside=self.outside(),
                listen=port,
                location=self.location(),
            )
        )
        nginx = programs.require("nginx")
        log = str(self.directory / "error.log")
        return (nginx, "-p", str(self.directory), "-e", log, "-c", str(conf))

    def outside(self) -> str:
        """Lines of the http block."""
        return ""

    def location(self) -> str:
        """Lines of the location."""
        return f"root {self._root};"


_NGINX = """
{user}
daemon off;
worker_processes {workers};
worker_rlimit_nofile {descriptors};
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections {descriptors}; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type application/octet-stream;
    sendfile {sendfile};
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=60s;
    open_file_cache_valid 2s;  # as streamcache's source.revalidate
    access_log {access_log};
    {outside}
    server {{
        listen 127.0.0.1:{listen} backlog=4096;
        location / {{ {location} }}
    }}
}}
"""


class NginxSlice(Nginx):
    """``proxy_cache`` with ``slice``: what users of nginx would pick for films."""

    def __init__(self, origin: tuple[str, int], directory: Path, *, workers: int = 1) -> None:
        super().__init__(directory, directory, name="nginx slice", workers=workers)
        self._origin = origin

    def outside(self) -> str:
        host, port = self._origin
        cache = f"{self.directory}/cache keys_zone=films:10m max_size=4g inactive=1d"
        return f"""
    proxy_cache_path {cache} use_temp_path=off;
    upstream origin {{ server {host}:{port}; keepalive 32; }}"""

    def location(self) -> str:
        return """
            slice 1m;
            proxy_cache films;
            proxy_cache_key $uri$slice_range;
            proxy_cache_valid 200 206 1h;
            proxy_cache_lock on;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Range $slice_range;
            proxy_pass http://origin;
        """


class Varnish(Program):
    """Whole objects in memory, streamed while they are fetched."""

    def __init__(self, origin: tuple[str, int], directory: Path) -> None:
        super().__init__("Varnish", directory)
        self._origin = origin

    def command(self, port: int) -> Sequence[str]:
        host, origin_port = self._origin
        vcl = self.directory / "default.vcl"
        vcl.write_text(
            f'vcl 4.1;\nbackend origin {{ .host = "{host}"; .port = "{origin_port}"; }}\n'
            "sub vcl_backend_response { set beresp.ttl = 1h; }\n"
        )
        varnishd = programs.require("varnishd")
        # The jail would change users, who may not enter a private directory.
        return (
            *(varnishd, "-F", "-j", "none", "-n", str(self.directory / "work")),
            *("-a", f"127.0.0.1:{port}", "-f", str(vcl), "-s", "malloc,1G"),
        )


class Rclone(Program):
    """``rclone serve http`` on the mount, with its own cache on the disk."""

    def __init__(self, root: Path, directory: Path) -> None:
        super().__init__("rclone", directory)
        self._root = root

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "RCLONE_CONFIG": str(self.directory / "rclone.conf")}

    def command(self, port: int) -> Sequence[str]:
        (self.directory / "rclone.conf").touch()
        return (
            *(programs.require("rclone"), "serve", "http", str(self._root)),
            *("--addr", f"127.0.0.1:{port}", "--read-only", "--vfs-cache-mode", "full"),
            *("--cache-dir", str(self.directory / "cache")),
            # Else it reads the whole file twice, the first time for a checksum of it.
            "--vfs-fast-fingerprint",
        )


class PythonPeer(Program):
    """A file server of another Python package: see python_servers.py."""

    def __init__(self, kind: str, root: Path, directory: Path) -> None:
        super().__init__(kind, directory)
        self._root = root

    def command(self, port: int) -> Sequence[str]:
        module = "tests.bench.python_servers"
        package = {"pywsgi": "gevent"}.get(self.name, self.name)
        if importlib.util.find_spec(package) is None:
            raise programs.NotHere(f"no Python package {package}")
        return (sys.executable, "-m", module, self.name, str(self._root), str(port))


class Origin(Program):
    """A slow HTTP origin for those that cannot read a mount: see origin.py."""

    def __init__(self, root: Path, directory: Path, latency: float, bandwidth: float) -> None:
        super().__init__("origin", directory)
        self._root = root
        self._speed = (str(latency), str(bandwidth))

    def command(self, port: int) -> Sequence[str]:
        module = "tests.bench.origin"
        return (sys.executable, "-m", module, str(self._root), str(port), *self._speed)

    def bytes_sent(self) -> int:
        """Bytes of bodies that it gave away so far."""
        with socket.create_connection(self.address, timeout=10) as peer:
            peer.sendall(b"GET /.sent HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            with peer.makefile("rb") as answer:
                return int(answer.read().rpartition(b"\r\n\r\n")[2])


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True
