"""Content to share, and the check of what arrived. Both lie outside of every clock."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

MIB = 1 << 20


def make_file(path: Path, length: int) -> str:
    """Writes `length` random bytes and returns their SHA-256. They are in the page cache afterwards."""
    digest = hashlib.sha256()
    with open(path, "wb") as out:
        left = length
        while left:
            block = os.urandom(min(left, MIB))
            out.write(block)
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def make_tree(folder: Path, files: int, file_len: int) -> str:
    """Writes a folder of many small files, 100 in each of its folders; returns the digest of `digest_of`."""
    for index in range(files):
        sub = folder / f"{index // 100:04}"
        if index % 100 == 0:
            sub.mkdir(parents=True)
        (sub / f"{index:06}.bin").write_bytes(os.urandom(file_len))
    return digest_of(folder)


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, over the names and digests of all files in it, in order of their names."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path)} {digest_of(file)}\n".encode())
        return digest.hexdigest()
    with open(path, "rb", buffering=0) as content:
        buffer = bytearray(MIB)
        while count := content.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Brings a file or folder to disk."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def is_tmpfs(path: Path) -> bool:
    """Does it lie in memory, so that syncing costs nothing?"""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, fs, *_ = line.split()
        inside = path == Path(mount) or str(path).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, fs
    return kind == "tmpfs"


def work_folder(asked: str | None, needed_len: int) -> Path:
    """A new empty folder: in `asked`, else on /dev/shm if there is room in it and in memory, else in the temporary folder."""
    parent = asked
    if parent is None:
        parent = tempfile.gettempdir()
        shm = Path("/dev/shm")
        if shm.is_dir():
            stat = os.statvfs(shm)
            if min(stat.f_bavail * stat.f_frsize, free_memory_len()) > needed_len:
                parent = str(shm)
    Path(parent).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="peerbench-", dir=parent)).resolve()


def free_memory_len() -> int:
    """Bytes of memory that programs can still have."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
