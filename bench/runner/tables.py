"""Samples as Markdown tables: medians with their range, ratios, targets."""

import statistics

median = statistics.median

HEADINGS = {
    "requests_per_s": "requests/s",
    "concurrent_per_s": "requests/s of 1,000",
    "cpu_us": "server CPU µs/request",
    "per_cpu_s": "requests/server CPU s",
    "client_us": "client CPU µs/request",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "others": "CPUs used by others",
    "ready_mib": "MiB when ready",
    "peak_mib": "peak MiB",
    "load_peak_mib": "peak MiB under load",
    "accepted_kib": "KiB, just accepted",
    "idle_kib": "KiB, settled",
    "echoed_kib": "KiB, just used once",
    "used_kib": "KiB, used once and settled",
    "base_mib": "MiB before",
    "accepted_mib": "most MiB accepted from one",
    "bounded": "bounded",
    "growth_mib": "growth in MiB",
    "alone_p50_us": "p50 µs alone",
    "alone_p99_us": "p99 µs alone",
    "cut": "slow ones cut meanwhile",
    "rate_ratio": "requests/s beside / alone",
    "p99_ratio": "p99 beside / alone",
}


def scenario(title, columns, samples):
    """One row per server, in the order measured."""
    rows = [
        [server, *(spread([sample[column] for sample in taken]) for column in columns)]
        for server, taken in samples.items()
    ]
    return f"### {title}\n\n" + _table(["", *(HEADINGS[column] for column in columns)], rows)


def grid(title, cells, subjects):
    """One row per scenario: the rates of all, and of a subject the ratios to uvloop."""
    rows = []
    for name, samples in cells:
        servers = {server.removesuffix("_tls"): taken for server, taken in samples.items()}
        row = [name]
        for server in ("asyncio", "uvloop"):
            row.append(
                spread(_values(servers, server, "requests_per_s")) if server in servers else ""
            )
        for server in (server for server in servers if server in subjects):
            row.append(spread(_values(servers, server, "requests_per_s")))
            for column in ("requests_per_s", "cpu_us"):
                row.append(_to(servers, server, "uvloop", column))
        rows.append(row)
    head = ["", "asyncio/s", "uvloop/s", "Reactor/s", "of uvloop's", "CPU/request of uvloop's"]
    return f"### {title}\n\n" + _table(head, rows)


def _to(samples, server, peer, column):
    if peer not in samples:
        return ""
    return _ratio(list(zip(_values(samples, server, column), _values(samples, peer, column))))


def negotiated(samples):
    """What TLS the servers spoke, as the load client saw it; nothing where there was none."""
    speakers = {}
    for server, taken in samples.items():
        for what in sorted({what for sample in taken for what in sample.get("tls", ())}):
            speakers.setdefault(what, []).append(server)
    return "".join(
        f"\nNegotiated with {', '.join(servers)}: {what}.\n" for what, servers in speakers.items()
    )


def ratios(columns, samples, subjects):
    """Every subject divided by every peer: the ratio of medians, and the range over rounds."""
    peers = [server for server in samples if server not in subjects]
    rows = []
    for subject in (server for server in samples if server in subjects):
        for column in columns:
            row = [f"{subject}: {HEADINGS[column]}"]
            for peer in peers:
                pairs = list(zip(_values(samples, subject, column), _values(samples, peer, column)))
                row.append(_ratio(pairs))
            rows.append(row)
    if not rows or not peers:
        return ""
    return "\n" + _table(["ratio to", *peers], rows)


def targets(all_targets, samples):
    """Every target with what was measured."""
    rows = []
    for target in all_targets:
        measured = target.measured(samples)
        if measured is None:
            rows.append([target.text, target.limit, "", "not measured"])
        else:
            verdict = "met" if target.met(measured) else "**not met**"
            if target.limit == "none":
                verdict = "for comparison"
            rows.append([target.text, target.limit, f"{measured:.3g}", verdict])
    return "### Targets\n\n" + _table(["", "limit", "measured", ""], rows)


def spread(values):
    """The median, and what the smallest and largest were."""
    middle = number(median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))} – {number(max(values))})"


def number(value):
    """Three digits or so, whatever the size."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _values(samples, server, column):
    return [sample[column] for sample in samples[server]]


def _ratio(pairs):
    if any(peer == 0 for _, peer in pairs):
        return ""
    of_medians = median([subject for subject, _ in pairs]) / median([peer for _, peer in pairs])
    each = [subject / peer for subject, peer in pairs]
    if len(each) == 1:
        return f"{of_medians:.2f}"
    return f"{of_medians:.2f} ({min(each):.2f} – {max(each):.2f})"


def _table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
