"""What is measured: each subject starts, says where it listens, which processes are its own, and stops."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from bench import procs
from bench.engine import MODEL

ROOT = Path(__file__).parents[1]
SUBJECT_CORE = {max(os.sched_getaffinity(0))}
OTHER_CORES = os.sched_getaffinity(0) - SUBJECT_CORE or SUBJECT_CORE


PR_SET_PDEATHSIG = 1


class Skipped(Exception):
    """A subject that cannot run here; the words say why."""


class Subject(Protocol):
    """One thing that is measured."""

    name: str
    port: int
    key: str

    def pids(self) -> list[int]:
        """The processes whose CPU time counts."""

    def stop(self) -> None:
        """End them."""


def spawn(arguments: list[str], cores: set[int], **more: Any) -> subprocess.Popen[str]:
    """Start a process on these cores, with its output as text. It ends when this process does, however that ends."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.sched_setaffinity(0, cores)

    return subprocess.Popen(arguments, cwd=ROOT, text=True, preexec_fn=prepare, **more)


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM, wait_s: float = 15) -> None:
    """Ask a process to stop; kill it when it does not."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def python_server(module: str, *arguments: str, cores: set[int]) -> tuple[subprocess.Popen[str], int]:
    """Start a module of this package that prints its port."""
    process = spawn([sys.executable, "-m", module, *arguments], cores, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{module} did not start")
    return process, int(line)


class Direct:
    """No proxy: the engine itself. For latencies; it has no CPU of its own to count."""

    name = "direct"
    key = "none"

    def __init__(self, engine_port: int) -> None:
        self.port = engine_port

    def pids(self) -> list[int]:
        return []

    def stop(self) -> None:
        return


class Probe:
    """The bare asyncio + httptools proxy."""

    name = "probe"
    key = "none"

    def __init__(self, engine_port: int) -> None:
        self.process, self.port = python_server("bench.probe", "--upstream", str(engine_port), cores=SUBJECT_CORE)

    def pids(self) -> list[int]:
        return procs.tree(self.process.pid)

    def stop(self) -> None:
        end(self.process)


NGINX_CONF = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_buffer_size 8k;
    client_body_buffer_size 64k;
    upstream engine {{
        server 127.0.0.1:{engine};
        keepalive 4096;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def nginx_binary() -> str:
    """Where nginx is; installed by apt when absent and permitted. Raises Skipped."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found:
        return found
    apt = shutil.which("apt-get")
    if apt is None:
        raise Skipped("nginx is not installed and there is no apt-get; install nginx to get the ratios")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # runlevel 1: do not start a service
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "nginx"]):
        try:
            subprocess.run([*root, apt, *arguments], env=env, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as e:
            detail = getattr(e, "stderr", b"") or b""
            words = (detail.decode(errors="replace").strip().splitlines() or [str(e)])[-1]
            raise Skipped(f"nginx is not installed and apt-get {arguments[0]} failed: {words}") from None
    found = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if found is None:
        raise Skipped("apt-get installed nginx, but there is no nginx in /usr/sbin")
    return found


class Nginx:
    """nginx as a bare reverse proxy, as lean as it gets: one worker, kept connections on both sides, no access log, no
    buffering, and a header buffer that takes head and body in one read (two system calls less per request)."""

    name = "nginx"
    key = "none"

    def __init__(self, engine_port: int, folder: Path) -> None:
        binary = nginx_binary()
        self.version = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr.strip()
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        conf = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(user + NGINX_CONF.format(folder=folder, engine=engine_port, port=self.port))
        self.process = spawn(
            [binary, "-p", str(folder), "-c", str(conf), "-e", str(folder / "error.log")], SUBJECT_CORE
        )
        wait_for_port(self.port, 10)

    def pids(self) -> list[int]:
        return procs.tree(self.process.pid)

    def stop(self) -> None:
        end(self.process)


def wait_for_port(port: int, seconds: float) -> None:
    """Wait until someone listens there. Raises TimeoutError."""
    stop_at = time.monotonic() + seconds
    while time.monotonic() < stop_at:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens on port {port} after {seconds:.0f} s")


GATEWAY_CONF = """
sources:
  - name: bench
    kind: vllm
    url: http://127.0.0.1:{engine}
    granted_to: ["bench"]
    labels: {{region: here, on_prem: true, data_class_max: restricted}}
    price: {{input_usd_per_mtok: 0.2, output_usd_per_mtok: 0.6}}
tenants:
  - name: bench
    teams:
      - {{name: load, limits: {{requests_per_minute: 100000000, tokens_per_minute: 1000000000, concurrency: 100000}}}}
    principals:
      - name: loader
        kind: service
        teams: [load]
        limits: {{requests_per_minute: 100000000, tokens_per_minute: 1000000000, concurrency: 100000}}
    policies:
      - id: load-may-use-bench
        template: team-may-use-models
        parameters: {{team: load, models: [{model}]}}
    keys:
      - name: bench
        principal: loader
        scopes: [infer]
        limits: {{requests_per_minute: 100000000, tokens_per_minute: 1000000000, concurrency: 100000}}
    budgets:
      - {{name: money, team: load, usd: 1000000, window: year}}
      - {{name: tokens, principal: loader, tokens: 1000000000000, window: year}}
"""
"""Profile direct: the model is named, a policy permits, limits count at all three levels, two hard budgets hold,
everything is recorded."""


class Gateway:
    """The product as `interlock up` starts it, with one worker. The worker has the subject's core, the rest the other.

    CPU counts for the node process and its worker; control and the embedded database are reported apart.
    """

    name = "gateway"

    def __init__(self, engine_port: int, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder, self.engine_port = folder, engine_port
        self.home = folder / "home"
        self.ready_file = folder / "ready.json"
        self.env = os.environ | {
            "INTERLOCK_WORKERS": "1", "INTERLOCK_LOG_LEVEL": "warning", "INTERLOCK_LOG_DISK_BYTES_MAX": "50000000000",
        } | (env or {})  # fmt: skip
        self.output = (folder / "gateway.log").open("a")
        self.start_s = self._start()
        self.key = self._configure()
        self._pin()

    def _start(self) -> float:
        """Start and wait until ready; seconds that took."""
        self.ready_file.unlink(missing_ok=True)
        self.process = spawn(
            [
                str(Path(sys.executable).with_name("interlock")), "up", "--home", str(self.home), "--port", "0",
                "--control-port", "0", "--ready-file", str(self.ready_file),
            ],
            os.sched_getaffinity(0), env=self.env, stdout=self.output, stderr=self.output,
        )  # fmt: skip
        began = time.monotonic()
        while not self.ready_file.exists() or not self.ready_file.read_text():
            if self.process.poll() is not None or time.monotonic() - began > 60:
                raise Skipped(f"interlock up did not become ready: {self._last_words()}")
            time.sleep(0.01)
        took = time.monotonic() - began
        ready = json.loads(self.ready_file.read_text())
        self.url = ready["gateway"].rstrip("/")
        self.control_url = ready["control"].rstrip("/")
        self.admin_key = ready["admin_key"]
        self.port = int(self.url.rpartition(":")[2])
        return took

    def _last_words(self) -> str:
        lines = (self.folder / "gateway.log").read_text().strip().splitlines()
        return lines[-1] if lines else "no output"

    def _configure(self) -> str:
        """Apply the bench configuration, wait until a call goes through, return the key."""
        conf, keys = self.folder / "bench.yaml", self.folder / "keys.json"
        conf.write_text(GATEWAY_CONF.format(engine=self.engine_port, model=MODEL))
        applied = subprocess.run(
            [
                str(Path(sys.executable).with_name("interlock")), "apply", "-f", str(conf), "--reason", "benchmark",
                "--keys-out", str(keys), "--json",
            ],
            env=self.env | {
                "INTERLOCK_HOME": str(self.home), "INTERLOCK_ADMIN_KEY": self.admin_key,
                "INTERLOCK_CONTROL_URL": self.control_url,
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if applied.returncode:
            raise RuntimeError(f"interlock apply failed: {applied.stderr.strip() or applied.stdout.strip()}")
        key = find_key(json.loads(keys.read_text()))
        wait_for_answer(self.url, key, 30)
        return key

    def _pin(self) -> None:
        everyone = procs.tree(self.process.pid)
        workers = self.workers()
        procs.pin([p for p in everyone if p not in workers], OTHER_CORES)
        procs.pin(workers, SUBJECT_CORE)

    def workers(self) -> list[int]:
        """The worker processes."""
        return [p for p in procs.tree(self.process.pid) if "interlock.gateway.worker" in procs.command_line(p)]

    def pids(self) -> list[int]:
        """The node process and its workers."""
        workers = self.workers()
        nodes = {procs.parent(w) for w in workers} - {self.process.pid}
        return [*nodes, *workers]

    def rest(self) -> list[int]:
        """Everything else `interlock up` runs: control, the embedded database."""
        own = set(self.pids())
        return [p for p in procs.tree(self.process.pid) if p not in own]

    def restart(self) -> float:
        """Stop and start on the same home; seconds until ready."""
        end(self.process)
        took = self._start()
        wait_for_answer(self.url, self.key, 30)
        self._pin()
        return took

    def stop(self) -> None:
        end(self.process)
        self.output.close()


def find_key(document: Any) -> str:
    """The first API key anywhere in a document. Raises RuntimeError."""
    if isinstance(document, str) and document.startswith("il_"):
        return document
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for one in inner:
        try:
            return find_key(one)
        except RuntimeError:
            continue
    raise RuntimeError("interlock apply returned no key")


def wait_for_answer(url: str, key: str, seconds: float) -> None:
    """Call the model until it answers. Raises TimeoutError with the last refusal."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "go"}], "max_tokens": 8}).encode()
    stop_at = time.monotonic() + seconds
    said = ""
    while time.monotonic() < stop_at:
        request = urllib.request.Request(
            url + "/v1/chat/completions", body,
            {"authorization": f"Bearer {key}", "content-type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                answer.read()
                return
        except urllib.error.HTTPError as e:
            with e:
                said = e.read().decode(errors="replace")[:300]
        except OSError as e:
            said = str(e)
        time.sleep(0.1)
    raise TimeoutError(f"no answer through the gateway after {seconds:.0f} s: {said}")
