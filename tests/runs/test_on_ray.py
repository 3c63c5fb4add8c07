"""The same plan on a real Ray cluster of several nodes, some of which are lost while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import misbehaving
import pytest
import yaml
from typer.testing import CliRunner
from whole_runs import COMMAND, left_behind, without_costs

from benchmark.cli import app
from benchmark.protocol import Protocol
from benchmark.records.store import Store
from benchmark.registry import Registry
from benchmark.runs import on_ray
from benchmark.runs.context import Setup
from benchmark.runs.executor import Ended, Job
from benchmark.runs.plan import plan
from benchmark.runs.tasks import Worker

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

STORE = {"object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that plays nothing, and two nodes of one core."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
    for _ in range(2):
        found.add_node(num_cpus=1, **STORE)
    yield found
    found.shutdown()


def words(protocol: Path | str, out: Path, cluster: Cluster | None, *more: str) -> list[str]:
    where = ["--workers", "2"] if cluster is None else ["--ray", cluster.address]
    return [*COMMAND, str(protocol), "--out", str(out), *where, *more]


def begin(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return said


def with_evidence(out: Path) -> dict[str, dict[str, Any]]:
    """Records without what they cost, with the bytes of their evidence."""
    found = without_costs(out)
    for record in found.values():
        if record["evidence"]:
            record["bytes"] = (out / "evidence" / record["evidence"]["file"]).read_bytes()
    return found


def wait_for_records(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while len(list((out / "records").glob("*.json"))) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.nightly
def test_lost_machines_and_a_killed_driver_change_no_record(
    cluster: Cluster, tiny_file: Path, tmp_path: Path
) -> None:
    defenses = ["weight-decay", "keeps-a-child", "strip", "spectral-signatures", "crashes"]
    plugin = ["--plugin", misbehaving.__file__, "--attack", "badnets"]
    for name in defenses:
        plugin += ["--defense", name]
    finish(begin(words(tiny_file, tmp_path / "local", None, *plugin)))
    out = tmp_path / "ray"
    driver = begin(words(tiny_file, out, cluster, *plugin))
    wait_for_records(out, 1, driver)
    lost = cluster.list_all_nodes()[-1]
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1, **STORE)
    wait_for_records(out, 3, driver)
    driver.kill()
    driver.wait()
    again = begin(words(tiny_file, out, cluster, *plugin))
    wait_for_records(out, 6, again)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    cluster.add_node(num_cpus=1, **STORE)
    finish(again)
    assert with_evidence(out) == with_evidence(tmp_path / "local")
    assert not list(out.rglob("*.tmp"))
    assert left_behind() == []


@pytest.mark.nightly
def test_a_released_protocol_where_machines_come_and_go(tmp_path: Path) -> None:
    """Of three nodes two are lost and one joins; the driver is killed twice."""
    part = ["--seeds", "1", "--attack", "badnets"]
    for name in ("weight-decay", "fine-pruning", "strip", "abs"):
        part += ["--defense", name]
    started = time.monotonic()
    finish(begin(words("digits-v3", tmp_path / "local", None, *part)))
    print(f"local: {time.monotonic() - started:.0f} s")
    whole = with_evidence(tmp_path / "local")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **STORE})
    try:
        nodes = [cluster.add_node(num_cpus=1, **STORE) for _ in range(3)]
        out = tmp_path / "ray"
        for count in (1, len(whole) // 2):
            driver = begin(words("digits-v3", out, cluster, *part))
            wait_for_records(out, count, driver)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            wait_for_records(out, count + 1, driver)
            driver.kill()
            driver.wait()
        cluster.add_node(num_cpus=1, **STORE)
        finish(begin(words("digits-v3", out, cluster, *part)))
        assert with_evidence(out) == whole
        # The same machine without any loss: what the cluster itself costs.
        started = time.monotonic()
        finish(begin(words("digits-v3", tmp_path / "quiet", cluster, *part)))
        print(f"on two nodes: {time.monotonic() - started:.0f} s")
        assert with_evidence(tmp_path / "quiet") == whole
    finally:
        cluster.shutdown()
    assert left_behind() == []


@pytest.mark.nightly
def test_an_interrupt_ends_what_plays_on_the_cluster(
    cluster: Cluster, tiny_file: Path, tmp_path: Path
) -> None:
    more = ["--plugin", misbehaving.__file__, "--attack", "badnets", "--defense", "hangs"]
    driver = begin(words(tiny_file, tmp_path / "run", cluster, *more))
    wait_for_records(tmp_path / "run", 2, driver)
    time.sleep(3)
    driver.send_signal(signal.SIGTERM)
    said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "interrupted; the same command continues" in said[0]


def test_a_machine_makes_the_files_that_a_run_here_makes(
    tiny: Protocol, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a machine of a cluster, without one: files go there and come back."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cell = plan(tiny, registry, attacks=["badnets"], defenses=["weight-decay"], seeds=1)[-1]
    setup = Setup(tiny, "standard", "cpu", (Path(misbehaving.__file__),), None, tmp_path / "here")
    setup.root.mkdir()
    worker = Worker(setup)
    content = Path(misbehaving.__file__).read_bytes()
    sent = on_ray._Sent(setup, (("misbehaving.py", content),), worker.data_sha256)
    try:
        ended, clean = on_ray._play_there(sent, Job(cell.victim.clean))
        assert (ended, len(clean)) == (Ended(), 5)  # four groups of tensors, and their index
        for victim in cell.needs():
            assert worker.train_victim(victim) is None
        assert Store(setup.root).victims.facts(cell.victim.clean.key)["test_hits"] > 0
        victims = [worker.store.victims.files(victim.key) for victim in cell.needs()]
        ended, made = on_ray._play_there(sent, Job(cell), *victims)
        assert ended == Ended()
        # Without the victims, they are what is missing, and nothing of before is left there.
        ended, nothing = on_ray._play_there(sent, Job(cell))
        assert ended.damaged in {victim.key for victim in cell.needs()}
        assert nothing == {}
    finally:
        on_ray._leave()
    assert worker.play_cell(cell) is None
    Store(tmp_path / "run").begin()
    Store(tmp_path / "run").take(made)
    assert with_evidence(tmp_path / "run") == with_evidence(setup.root)
    assert not list(tmp_path.glob("poisongames-ray-*"))


def test_no_cluster_is_one_sentence(tiny_file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["run", str(tiny_file), "--out", str(tmp_path), "--ray", "127.0.0.1:1"],
        env={"COLUMNS": "300"},
    )  # fmt: skip
    assert done.exit_code == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in done.output
    assert "start one with `ray start --head`" in done.output


def test_examples_of_clusters_are_sound() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    folder = Path(__file__).parents[2] / "scripts" / "cluster"
    validate_config(prepare_config(yaml.safe_load((folder / "ray-up.yaml").read_text())))
    job = yaml.safe_load((folder / "kubernetes.yaml").read_text())
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert groups[0]["template"]["spec"]["containers"][0]["image"] == "poisongames:latest"
    subprocess.run(["bash", "-n", str(folder / "slurm.sh")], check=True)
    for path in folder.iterdir():
        assert "poisongames run cifar10-v3 --ray" in path.read_text()
