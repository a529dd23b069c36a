"""A command that a server's child runs is the command itself: same bytes, same environment, same end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="on other systems a command runs in its own process"),
]

ROOT = Path(__file__).parents[1]
SCRIPT = """#!{python}
import os, sys
from bench.serve.client import main
def command():
    if sys.argv[1] == "python":
        exec(sys.argv[2])
    else:
        from bench.cli import main as command_line
        command_line()
main(command)
"""
WORKFLOW = """
import os, sys
from bench.serve.client import start
start()
print(os.environ["COSTEFF_SERVER"], flush=True)
sys.stdin.read()
"""
FACTS = """
import importlib, json, os, resource, sys, tempfile, torch
from bench.serve.server import PRELOADED
for module in PRELOADED:  # which leave variables of their own in the environment
    importlib.import_module(module)
facts = {
    "argv": sys.argv[3:], "path": sys.path, "main": sys.modules["__main__"].__file__, "folder": os.getcwd(),
    "umask": os.umask(0), "nice": os.nice(0), "stdin": sys.stdin.read(), "temporary": tempfile.gettempdir(),
    "processors": sorted(os.sched_getaffinity(0)), "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "threads": torch.get_num_threads(), "handlers": len(__import__("logging").getLogger().handlers),
    "environment": {name: value for name, value in os.environ.items() if name != "COSTEFF_SERVER"},
}
print(json.dumps(facts, sort_keys=True))
print("to stderr", file=sys.stderr)
sys.exit(7)
"""
WHO = "print(os.getpid(), os.getppid(), flush=True)\n"


class Workflow:
    """A process that has started a server, and commands with and without it."""

    def __init__(self, folder: Path) -> None:
        script = folder / "costeff"
        script.write_text(SCRIPT.format(python=sys.executable))
        script.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self.environment.pop("COSTEFF_SERVER", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKFLOW], env=self.environment, stdin=-1, stdout=-1, text=True
        )
        assert self.process.stdout
        self.server = self.process.stdout.readline().strip()

    def start(self, *arguments: str, plain: bool = False, **changes: str) -> subprocess.Popen[str]:
        environment = self.environment | {"COSTEFF_SERVER": "" if plain else self.server} | changes
        return subprocess.Popen(
            ["costeff", *arguments], env=environment, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=self.folder
        )

    folder: Path | None = None

    def ended(self, *arguments: str, plain: bool = False, **changes: str) -> tuple[str, str, int]:
        process = self.start(*arguments, plain=plain, **changes)
        return *process.communicate("from a pipe"), process.returncode

    def running(self) -> tuple[subprocess.Popen[str], int, int]:
        """A client with a command that does not end: the client, the command's process, the server."""
        client = self.start("python", WHO + "import time; time.sleep(600)")
        assert client.stdout
        own, parent = map(int, client.stdout.readline().split())
        return client, own, parent


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workflow]:
    started = Workflow(tmp_path_factory.mktemp("workflow"))
    yield started
    started.process.kill()
    started.process.communicate()


@pytest.fixture
def short_lived(tmp_path: Path) -> Iterator[Workflow]:
    started = Workflow(tmp_path)
    yield started
    started.process.kill()
    started.process.communicate()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(seconds: float, *processes: int) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_served(workflow: Workflow, **changes: str) -> bool:
    """Whether a command's parent is not its client."""
    client = workflow.start("python", WHO, **changes)
    return int(client.communicate()[0].split()[1]) != client.pid


def test_environment_and_arguments_reach_the_command(workflow, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "folder", tmp_path)
    assert is_served(workflow)
    assert not is_served(workflow, COSTEFF_SERVER="")

    def in_own_environment(plain: bool) -> tuple[str, str, int]:
        before = os.umask(0o027)
        try:
            arguments = ("python", FACTS, "an argument", "--ünd")
            return workflow.ended(*arguments, plain=plain, TMPDIR=str(tmp_path), CUDA_VISIBLE_DEVICES="1")
        finally:
            os.umask(before)

    served, plain = in_own_environment(False), in_own_environment(True)
    facts = [json.loads(out) for out, _, _ in (served, plain)]
    assert facts[0] == facts[1]
    assert served[1:] == plain[1:] == ("to stderr\n", 7)
    assert facts[0]["folder"] == facts[0]["temporary"] == str(tmp_path)
    assert facts[0]["umask"] == 0o027
    assert facts[0]["stdin"] == "from a pipe"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_number_of_threads_is_that_of_the_client(workflow, threads):
    code = "import torch, sklearn.ensemble, threadpoolctl as t\n"
    code += "print(sorted((i['user_api'], i['num_threads']) for i in t.threadpool_info()), torch.get_num_threads())"
    own = {name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    assert is_served(workflow, **own)
    assert workflow.ended("python", code, **own) == workflow.ended("python", code, plain=True, **own)


@pytest.mark.parametrize("name", ["HF_HOME", "PYTHONHASHSEED", "ARROW_DEFAULT_MEMORY_POOL"])
def test_a_command_whose_libraries_would_load_differently_is_not_served(workflow, name):
    assert not is_served(workflow, **{name: "system" if name.startswith("ARROW") else "1"})
    assert not is_served(workflow, OMP_NUM_THREADS="all")


def test_a_job_of_snakemake_is_served(workflow):
    code = f"""
from snakemake.shell import shell
threads = 2  # which shell looks up here
print(*shell("echo $$; exec costeff python '{WHO.strip()}'", iterable=True))
"""
    environment = workflow.environment | {"COSTEFF_SERVER": workflow.server}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    client, _, parent = map(int, out.split())
    assert client != parent


def test_a_client_of_another_installation_is_not_served(workflow):
    assert not is_served(workflow, COSTEFF_SERVER=workflow.server[:-8] + "0" * 8)


def test_each_command_draws_random_numbers_of_its_own(workflow):
    code = "import random, numpy, torch, tempfile\n"
    code += "print(random.random(), numpy.random.rand(), torch.rand(1).item(), tempfile.mktemp())"
    drawn = [workflow.ended("python", code)[0].split() for _ in range(3)]
    assert all(len(set(values)) == 3 for values in zip(*drawn, strict=True))
    code = "from transformers import set_seed; set_seed(3)\n" + code.rpartition(",")[0] + ")"
    assert workflow.ended("python", code) == workflow.ended("python", code, plain=True)


def test_errors_and_signals_end_a_served_command_as_a_plain_one(workflow):
    for code, status in (
        ("raise ValueError('no')", 1),
        ("sys.exit('a line')", 1),
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), 9)", 128 + 9),
        ("os.kill(os.getpid(), 15)", 128 + 15),
        ("import atexit; atexit.register(print, 'last words')", 0),
        ("import atexit; atexit.register(os.write, 1, b'last'); print('no newline', end=''); sys.exit(4)", 4),
        ("import threading; threading.Timer(0.5, print, ['from a thread']).start()", 0),
        ("sys.exit(True)", 1),
        ("sys.exit(-1)", 255),
    ):
        served, plain = workflow.ended("python", code), workflow.ended("python", code, plain=True)
        assert served[2] == plain[2] == status
        assert served[0] == plain[0]
        assert served[1].splitlines()[-1:] == plain[1].splitlines()[-1:]
    assert "SIGKILL" in workflow.ended("python", "os.kill(os.getpid(), 9)")[1]
    served, plain = (
        workflow.ended("run", "nothing", "no", "such"),
        workflow.ended("run", "nothing", "no", "such", plain=True),
    )
    assert served == plain
    assert served[2] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("plain", [False, True])
def test_a_command_ends_with_its_client(workflow, number, plain, monkeypatch):
    if plain:
        monkeypatch.setattr(workflow, "server", "")
    client, command, _ = workflow.running()
    client.send_signal(number)
    assert gone_within(30, command)
    client.communicate()
    assert client.returncode == -number


def test_a_command_s_own_children_end_with_its_client(workflow):
    code = "import subprocess, time; c = subprocess.Popen(['sleep', '600']); print(c.pid, flush=True); time.sleep(600)"
    client = workflow.start("python", code)
    assert client.stdout
    grandchild = int(client.stdout.readline())
    client.kill()
    assert gone_within(30, grandchild)
    client.communicate()


def test_a_killed_server_is_reported_in_one_line_and_later_commands_run_alone(short_lived):
    client, command, server = short_lived.running()
    os.kill(server, signal.SIGKILL)
    assert gone_within(30, command)
    _, error = client.communicate()
    assert client.returncode == 1
    assert len(error.splitlines()) == 1
    assert short_lived.ended("python", "print('alone')") == ("alone\n", "", 0)


def test_server_and_commands_end_with_the_workflow(short_lived):
    clients = [short_lived.running() for _ in range(3)]
    short_lived.process.kill()
    assert gone_within(30, *(process for _, command, server in clients for process in (command, server)))
    for client, _, _ in clients:
        client.communicate()


def test_a_server_that_still_imports_ends_with_its_workflow(short_lived):
    client = short_lived.start("python", WHO)
    children = Path(f"/proc/{short_lived.process.pid}/task/{short_lived.process.pid}/children")
    [server] = map(int, children.read_text().split())
    until = time.monotonic() + 30
    while not any("socket:" in str(file.resolve()) for file in Path(f"/proc/{client.pid}/fd").iterdir()):
        assert alive(server) and time.monotonic() < until  # the client waits for the server once it has a socket
        time.sleep(0.01)
    short_lived.process.kill()
    assert gone_within(30, server)
    _, parent = map(int, client.communicate()[0].split())
    assert parent == client.pid  # the server did not run it


def test_twenty_commands_at_once(workflow):
    code = "import torch; print(sum(torch.ones(100, 100) @ torch.ones(100)).item() + int(sys.argv[3]))"
    clients = [workflow.start("python", code, str(number)) for number in range(20)]
    for number, client in enumerate(clients):
        assert client.communicate() == (f"{10_000.0 + number}\n", "")


def test_a_served_command_starts_sooner_than_one_that_imports_the_libraries(workflow):
    workflow.ended("python", "")  # the first waits for the imports

    def seconds(plain: bool) -> float:
        began = time.time()
        out = workflow.ended("python", "import time, bench.runs.train_run; print(time.time())", plain=plain)[0]
        return float(out) - began

    assert min(seconds(plain=False) for _ in range(5)) < min(seconds(plain=True) for _ in range(2))


def test_a_run_has_the_same_bytes(workflow, tiny_settings: Callable, tmp_path):
    files = {}
    settings = tiny_settings(tmp_path / "results")
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    for how, plain in (("plain", True), ("served", False)):
        for contestant, variant in (("teacher", "full"), ("cascadebert", "full")):
            out = workflow.ended("run", "sst2", contestant, variant, "--config", str(config), plain=plain)
            assert out[2] == 0, out[1]
        files[how] = {
            path.relative_to(settings.root): path.read_bytes()
            for path in settings.root.rglob("*")
            if path.is_file() and path.name != "run.json"  # it holds times
        }
        shutil.rmtree(settings.root)
    assert any(path.name.startswith("trace-") for path in files["plain"])
    assert files["plain"] == files["served"]


def test_the_client_imports_no_large_package():
    heavy = {"typer", "pydantic", "yaml", "numpy", "torch"}
    code = f"import sys, bench.serve.client; print(sorted(set(sys.modules) & {heavy}))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
