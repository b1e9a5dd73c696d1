"""What /proc says about a server: CPU time, memory, open files, of all its processes together."""

import os
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid):
    """The process and its descendants: a server may put part of its work into other processes."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(int(entry.name))
            children.setdefault(parent, []).append(int(entry.name))
    found, unseen = [], [pid]
    while unseen:
        found.append(unseen.pop())
        unseen.extend(children.get(found[-1], []))
    return found


def cpu_s(pids):
    """CPU seconds, user and system, of all threads. In steps of a tick, usually 10 ms."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def memory_kib(pids):
    """(resident now, highest since start or reset), in KiB, summed over the processes."""
    resident = peak = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                resident += int(line.split()[1])
            elif line.startswith("VmHWM:"):
                peak += int(line.split()[1])
    return resident, peak


def reset_peak(pids):
    """Makes the highest memory what it is now. What a start needed is not what load needs."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pids):
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def machine_busy_s():
    """CPU seconds that the whole machine has been busy, whoever for."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def _stat(pid):
    # The name, in parentheses, may hold anything: fields are counted from behind it.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _parent(pid):
    try:
        return int(_stat(pid)[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
