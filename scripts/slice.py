"""Play PoisonGames slice by slice on a GPU machine that has no network.

Such a machine is lent for a while, runs commands of limited length in a copy of this working tree,
and is bare again when it goes back. What it lacks travels in a folder that git ignores, a part of
it with each command. WORK is a folder there, outside of the tree, that stays between commands;
OUT is the folder there whose files come back. At home, with the environment of poisongames,

  python scripts/slice.py pack --to travel --data DATA/cifar10 --done leaderboards/cifar10-v2

makes travel/kit (wheels, and the names of cells that are not to be played again) and
travel/shard-00, -01, ... (the data set, cut). There, one command does it all: carry travel/kit
and one of the shards with it. The last shard begins the play; from then on travel/kit is enough.

  python3 scripts/slice.py play --from travel --work WORK --out OUT --time-limit 9m \\
    -- cifar10-v2 --attack badnets --device cuda

At home again, with every folder that came back (if one was lost, `play --again` packs all anew):

  python scripts/slice.py collect OUT-1 OUT-2 --run runs/cifar10-v2-gpu
  poisongames verify runs/cifar10-v2-gpu
  poisongames submit runs/cifar10-v2-gpu --whole-rows

Models stay there, so the next machine trains others: give what comes from each a run of its own.
Rows that time cut off are left out, and --done lets the next one play them anew. If the code
changes, pack again and carry the kit. The tree travels too: mind it where sizes are limited.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "benchmark", "plugins")
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(17, 29)))
#: Seconds of a time limit that are kept for ending and packing.
RESERVE = 20.0
#: All that playing imports at first, and every plugin.
PROBE = """import sys, benchmark.cli.play, benchmark.runs.execute, benchmark.registry
sys.exit("; ".join(map(str, benchmark.registry.Registry().failures)) or None)"""
MEMBER = re.compile(r"((records|tuning)/\w[\w.-]*\.json|evidence/\w[\w.-]*\.(npz|png))", re.ASCII)


class SliceError(Exception):
    """One sentence that says what is wrong and what to do."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def python(*words: str | Path, fails: str, env: dict[str, str] | None = None) -> None:
    """Run Python quietly; where that fails, say so with the reason that it gave."""
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True)
    if done.returncode:
        # A traceback ends with its reason; pip marks its own and goes on.
        reasons = re.findall(r"^\s*(?i:error).*", done.stderr, re.MULTILINE)
        reasons = reasons or done.stderr.splitlines()
        raise SliceError(f"{fails} ({[done.returncode, *reasons][-1]})")


def needs(name: str) -> set[str]:
    """A distribution and what it needs without extras, as NAME==VERSION of what is here."""
    names = [re.split(r"[^\w.-]", line)[0] for line in requires(name) or () if ";" not in line]
    return {f"{name}=={version(name)}"}.union(*map(needs, names))


def pack(words: Namespace) -> None:
    """Fill a folder with what the machine lacks, and say how it travels."""
    kit = words.to / "kit"
    for old in (kit, *words.to.glob("shard-*")):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory() as copied:
        # Where a build takes place it leaves files, which the next one would take up.
        for name in SOURCES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(copied, name))
        build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir")
        python(*build, kit / "wheels", copied, fails="the wheel of poisongames cannot be built")
    if wheels := sorted(needs("pydantic")) if words.wheels is None else words.wheels:
        fit = (f"--python-version={words.python}", *(f"--platform={name}" for name in PLATFORMS))
        fetch = ("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--implementation=cp")
        fails = f"the wheels {', '.join(wheels)} cannot be had for Python {words.python}"
        python(*fetch, *fit, "--dest", kit / "wheels", *wheels, fails=fails)
    for board in words.done:
        if not (board / "records").is_dir():
            raise SliceError(f"--done {board} has no folder records; name a board or a run")
        for record in (board / "records").glob("*.json"):
            write_whole(kit / "done" / "records" / record.name, b"")  # that it is there suffices
    if words.data is not None:
        _cut(words.data, words.to, words.shard_mb)
    for carried in [*([kit, shard] for shard in sorted(words.to.glob("shard-*"))), [kit]]:
        files = (file for one in carried for file in one.rglob("*") if file.is_file())
        size = sum(file.stat().st_size for file in files) / 2**20
        print(f"carry {' and '.join(map(str, carried))} ({size:.1f} MiB)")
    print("and each time run (--help says more)\n  python3 scripts/slice.py play", end="")
    print(f" --from {words.to} --work WORK --out OUT --time-limit 9m -- PROTOCOL")


def _cut(data: Path, to: Path, limit: float) -> None:
    """Cut an archive of a data set into files of at most `limit` MiB, named by their sums."""
    if (step := int(limit * 2**20)) < 1:
        raise SliceError(f"--shard-mb {limit} is no size; give a number of MiB above 0")
    if not (files := sorted(data.glob("*.parquet"))):
        raise SliceError(f"--data {data} holds no *.parquet; name the folder of one data set")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in files:  # without times: equal data make equal shards
            name = zipfile.ZipInfo(f"{data.resolve().name}/{file.name}")
            archive.writestr(name, file.read_bytes())
    whole = buffer.getvalue()
    shards = [whole[start : start + step] for start in range(0, len(whole), step)]
    for number, shard in enumerate(shards):
        write_whole(to / f"shard-{number:02}" / sha256(shard), shard)
    write_whole(to / "kit" / "shards", "\n".join(map(sha256, shards)).encode())


def play(words: Namespace) -> None:
    """Take in what travelled, play until the time is over, and pack what is new."""
    started = time.monotonic()
    kit, work = words.source / "kit", words.work.resolve()
    run = work / "runs" / Path(words.played[0]).stem
    env = os.environ | {"PYTHONPATH": f"{work / 'site'}", "XDG_CACHE_HOME": f"{work / 'cache'}"}
    _install(kit, work, env)
    # The tree is not on the path (-P): what is installed is played.
    command = [sys.executable, "-P", "-m", "benchmark.cli", "run", *words.played, "--out", run]
    if (kit / "shards").is_file():
        if (data := _receive(words.source, work)) is None:
            return
        command += ["--data-dir", data]
    if (kit / "done").is_dir():
        command += ["--done", kit / "done"]
    left = int(words.time_limit - RESERVE - (time.monotonic() - started))
    if left < 1:
        raise SliceError(f"--time-limit {words.time_limit}s leaves no time to play; give more")
    try:
        limited = [*command, "--time-limit", f"{left}s"]
        status = subprocess.call(limited, env=env, timeout=left + RESERVE / 2)
    except subprocess.TimeoutExpired:  # it was killed, which its workers see and end
        status = 3
    _bring(run, words)
    sys.exit(0 if status == 3 else status)  # poisongames exits with 3 when its time is over


def _install(kit: Path, work: Path, env: dict[str, str]) -> None:
    """Install the wheels, once for each set of them."""
    wheels = sorted((kit / "wheels").glob("*.whl"))
    if not any(wheel.name.startswith("poisongames-") for wheel in wheels):
        raise SliceError(f"{kit} holds no wheel of poisongames; carry the folder that pack made")
    site, installed = work / "site", work / "installed"
    digest = sha256(b"".join(wheel.read_bytes() for wheel in wheels))
    if installed.is_file() and installed.read_text() == digest:
        return
    shutil.rmtree(site, ignore_errors=True)
    install = ("-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--target", site)
    python(*install, *wheels, fails="the wheels cannot be installed here, pack others")
    python("-P", "-c", PROBE, env=env, fails="poisongames lacks a module here, pack its wheel too")
    write_whole(installed, digest.encode())


def _receive(source: Path, work: Path) -> Path | None:
    """Keep the shards that travelled; the folder of the data, or None while others are to come."""
    for path in (arrived := sorted(source.glob("shard-*/*"))):
        if sha256(shard := path.read_bytes()) != path.name:
            raise SliceError(f"{path} is damaged; carry it again, or pack again if it stays so")
        write_whole(work / "shards" / path.name, shard)
    names = (source / "kit" / "shards").read_text().split()
    data = work / f"data-{sha256(' '.join(names).encode())[:12]}"
    shards = [work / "shards" / name for name in names]
    missing = [f"shard-{number:02}" for number, one in enumerate(shards) if not one.is_file()]
    if missing and not arrived:
        raise SliceError(f"{', '.join(missing)} of the data never arrived; carry what is missing")
    if missing:
        print(f"{', '.join(missing)} to come; the same command plays when all have arrived")
        return None
    if not data.is_dir():
        whole = io.BytesIO(b"".join(shard.read_bytes() for shard in shards))
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(data.with_suffix(".tmp"))
        data.with_suffix(".tmp").rename(data)
    return data


def _bring(run: Path, words: Namespace) -> None:
    """Pack results that no earlier command packed, as many as fit into what may come back."""
    ledger = run.with_name(f"{run.name}.packed")
    packed = ledger.read_text().split() if ledger.is_file() and not words.again else []
    parts: list[dict[str, list[Path]]] = []
    limit, used, left = int(words.part_mb * 2**20), 0, 0
    # A search, or a record with its evidence, known by the content of the first.
    for path in sorted([*(run / "tuning").glob("*.json"), *(run / "records").glob("*.json")]):
        if (digest := sha256(path.read_bytes())) in packed:
            continue
        evidence = [run / "evidence" / path.with_suffix(end).name for end in (".npz", ".png")]
        files = [path, *(file for file in evidence if file.is_file())]
        # Packing adds less than 1/1000 and twice the name; most files become smaller.
        size = sum(file.stat().st_size * 1001 // 1000 + 500 for file in files)
        if not parts or used + size > limit - 100:
            parts, used = [*parts, {}], 0
        parts[-1][digest] = files
        used, left = used + size, left + 1
    room = words.parts - sum(path.is_file() for path in words.out.rglob("*"))
    for part in parts[: max(room, 0)]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (file for files in part.values() for file in files):
                archive.write(file, f"{file.parent.name}/{file.name}")
        if len(content := buffer.getvalue()) <= limit:
            write_whole(words.out / f"{run.name}-{sha256(content)[:12]}.zip", content)
            packed, left = [*packed, *part], left - len(part)
    write_whole(ledger, "\n".join(packed).encode())
    print(f"{left} results are left for the next command, or for larger parts")


def collect(words: Namespace) -> None:
    """Unpack what came back into a run, all of it or nothing."""
    folders = [sorted(one.glob("*.zip")) if one.is_dir() else [one] for one in words.places]
    if not (parts := [part for folder in folders for part in folder]):
        raise SliceError(f"{', '.join(map(str, words.places))}: nothing came back, no *.zip there")
    if len(names := {part.stem.rpartition("-")[0] for part in parts}) > 1:
        raise SliceError(f"the parts are of {' and '.join(sorted(names))}; name those of one")
    found: dict[str, bytes] = {}
    for part in parts:
        try:
            with zipfile.ZipFile(part) as archive:
                members = archive.infolist()
                contents = {member.filename: archive.read(member) for member in members}
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise SliceError(f"{part} is damaged ({error}); get it with play --again") from None
        for member in members:
            name, content = member.filename, contents[member.filename]
            regular = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
            if not regular or not MEMBER.fullmatch(name):
                raise SliceError(f"{part} holds {name!r}, which is no file of a result; remove it")
            there = words.run / name
            if found.get(name, there.read_bytes() if there.is_file() else content) != content:
                raise SliceError(f"{part} has another {name} than there is; name another --run")
        found |= contents
    new = sorted(name for name in found if not (words.run / name).is_file())
    for name in new:  # in the order of the alphabet: evidence before its record
        write_whole(words.run / name, found[name])
    print(f"{words.run}: {len(new)} new files, {len(found) - len(new)} were there")


def seconds(text: str) -> int:
    if (match := re.fullmatch(r"(\d+)([smh])", text)) is None:
        raise ArgumentTypeError(f"{text!r} is no duration; write 90s, 9m or 1h")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = {}
    for does in (pack, play, collect):
        command = commands.add_parser(does.__name__, help=does.__doc__, description=does.__doc__)
        command.set_defaults(does=does)
        add[does] = command.add_argument
    add[pack]("--to", type=Path, required=True, help="folder to fill, which git ignores")
    add[pack]("--data", type=Path, help="folder of a data set's Parquet files, named like the set")
    add[pack]("--shard-mb", type=float, default=24, help="MiB that a shard may have (24)")
    add[pack]("--wheels", nargs="*", help="what to bring too; pydantic and what it needs")
    add[pack]("--python", default="3.12", help="version of Python there (3.12)")
    add[pack]("--done", type=Path, action="append", default=[], help="board: do not play its cells")
    add[play]("--from", type=Path, required=True, dest="source", help="folder that travelled")
    add[play]("--work", type=Path, required=True, help="folder that stays between commands")
    add[play]("--out", type=Path, required=True, help="folder whose files come back")
    add[play]("--time-limit", type=seconds, required=True, help="of this whole command, as 9m")
    add[play]("--parts", type=int, default=4, help="files that may come back (4)")
    add[play]("--part-mb", type=float, default=15, help="MiB that each may have (15)")
    add[play]("--again", action="store_true", help="pack all results again: parts were lost")
    add[play]("played", nargs="+", metavar="PROTOCOL", help="after --: as for poisongames run")
    add[collect]("places", nargs="+", type=Path, metavar="OUT", help="folders that came back")
    add[collect]("--run", type=Path, required=True, help="folder of the run, as runs/NAME")
    words = parser.parse_args()
    try:
        words.does(words)
    except (SliceError, OSError, PackageNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
