#!/usr/bin/env python3
"""Checks a trace of dsrun's against what it must be, and its table against a recomputation.

usage: trace_check.py TRACE SUMMARY RANKS STEPS MICRO LAYERS SWAP
SWAP is the directory of a job with everything on NVMe, or "none" for one without offloading. Exits
with 1 and a line for each thing that is wrong.
"""
import json
import sys
from collections import defaultdict

wrong = []


def check(fine, *what):
    if not fine:
        wrong.append(" ".join(str(w) for w in what))


def strict(pairs):
    """Refuses members that come twice, which JSON readers let pass."""
    keys = [k for k, _ in pairs]
    check(len(keys) == len(set(keys)), "members come twice:", keys)
    return dict(pairs)


def load(path):
    def constant(name):
        raise ValueError(name + " is no JSON")
    with open(path, encoding="utf-8") as f:
        return json.load(f, object_pairs_hook=strict, parse_constant=constant,
                         parse_float=lambda text: round(float(text) * 1000) / 1000)


def union(spans):
    out = []
    for b, e in sorted(s for s in spans if s[0] < s[1]):
        if out and b <= out[-1][1]:
            out[-1][1] = max(out[-1][1], e)
        else:
            out.append([b, e])
    return out


def length(spans):
    return sum(e - b for b, e in spans)


def inter(a, b):
    out, i, k = [], 0, 0
    while i < len(a) and k < len(b):
        lo, hi = max(a[i][0], b[k][0]), min(a[i][1], b[k][1])
        if lo < hi:
            out.append([lo, hi])
        if a[i][1] < b[k][1]:
            i += 1
        else:
            k += 1
    return out


def less(a, b):
    """What of a is not in b: b's complement, met with a."""
    gaps, at = [], float("-inf")
    for lo, hi in b:
        gaps.append([at, lo])
        at = hi
    return inter(a, gaps + [[at, float("inf")]])


class Trace:
    def __init__(self, path):
        doc = load(path)
        self.other = doc["otherData"]
        self.process, self.thread = {}, {}
        self.rows = defaultdict(list)   # (pid, tid): events
        self.lanes = defaultdict(list)  # (process, lane): events of all its rows
        last = -1
        for e in doc["traceEvents"]:
            if e["ph"] == "M":
                if e["name"] == "process_name":
                    self.process[e["pid"]] = e["args"]["name"]
                elif e["name"] == "thread_name":
                    self.thread[e["pid"], e["tid"]] = e["args"]["name"]
                continue
            check(e["ph"] == "X", "an event of phase", e["ph"])
            check(e["ts"] >= last, "events are not sorted at", e)
            check(e["dur"] >= 0 and e["ts"] >= 0, "a negative time:", e)
            last = e["ts"]
            key = (e["pid"], e["tid"])
            check(key in self.thread and e["pid"] in self.process, "a lane without a name:", e)
            self.rows[key].append(e)
            name = self.thread[key]
            if name.endswith(")") and " (" in name:
                name = name[:name.rindex(" (")]
            self.lanes[self.process[e["pid"]], name].append(e)

    def nesting(self):
        for key, events in self.rows.items():
            open_ends = []
            for e in events:
                b, end = e["ts"], round(e["ts"] + e["dur"], 3)
                while open_ends and open_ends[-1] <= b:
                    open_ends.pop()
                check(not open_ends or end <= open_ends[-1],
                      self.thread[key], "overlaps:", e, "ends after", open_ends[-1:])
                open_ends.append(end)

    def spans(self, lane, cat):
        lo, hi = self.other["table_begin_us"], self.other["table_end_us"]
        return union([max(lo, e["ts"]), min(hi, e["ts"] + e["dur"])]
                     for e in self.lanes[lane] if e["cat"] == cat)


def near(a, b):
    return abs(a - b) <= 2e-6 + 1e-9 * abs(a)


def check_table(trace, table, ranks):
    wall = trace.other["table_end_us"] - trace.other["table_begin_us"]
    check(near(table["seconds"], wall / 1e6), "the window is", wall, "the table's", table["seconds"])
    transfer_sum = hidden_sum = 0
    compute = {}
    for r in range(ranks):
        lane = ("rank %d" % r, "compute")
        compute[r] = less(trace.spans(lane, "busy"), trace.spans(lane, "wait"))
    for row in table["lanes"]:
        process = "rank %d" % row["rank"]
        if row["process"] == "dsoffloadd":
            process = "dsoffloadd (%s's session)" % process
        lane = (process, row["lane"])
        wait = trace.spans(lane, "wait")
        busy = less(trace.spans(lane, "busy"), wait)
        check(near(row["busy_seconds"], length(busy) / 1e6), lane, "busy", length(busy), row)
        check(near(row["waiting_seconds"], length(wait) / 1e6), lane, "waits", length(wait), row)
        total = row["busy_seconds"] + row["waiting_seconds"] + row["idle_seconds"]
        check(near(total, table["seconds"]), lane, "busy, waiting and idle make", total)
        check(row["events"] == len(trace.lanes[lane]), lane, len(trace.lanes[lane]), "events", row)
        is_transfer = row["lane"] in ("comm", "copy-in", "copy-out") or "swap " in row["lane"]
        check(is_transfer == ("hidden_seconds" in row), lane, "is a transfer lane, or is not")
        if is_transfer:
            hidden = length(inter(busy, compute[row["rank"]])) / 1e6
            check(near(row["hidden_seconds"], hidden), lane, "hidden", hidden, row)
            hidden_sum += hidden
            transfer_sum += length(busy) / 1e6
    fraction = hidden_sum / transfer_sum
    check(0 <= table["hidden_fraction"] <= 1, "hidden fraction", table["hidden_fraction"])
    check(abs(fraction - table["hidden_fraction"]) < 2e-3, "hidden fraction is", fraction,
          "the table's", table["hidden_fraction"])
    check(table["dropped"] == 0, table["dropped"], "events were dropped")


def expected_phases(layers):
    blocks = ["block %d" % i for i in range(layers)]
    return (["embedding forward"] + [b + " forward" for b in blocks] + ["head"] +
            [b + " backward" for b in reversed(blocks)] + ["embedding backward"])


def check_lanes(trace, ranks, steps, micro, layers, swap):
    for r in range(ranks):
        process = "rank %d" % r
        for lane in ("main", "compute", "comm", "copy-in", "copy-out"):
            check((process, lane) in trace.lanes or (swap == "none" and lane.startswith("copy")),
                  process, "has no lane", lane)
        seen = [e["args"]["unit"] for e in trace.lanes[process, "main"] if e["name"] == "step"]
        check(seen == list(range(1, steps + 1)), process, "took steps", seen)
        # What comes behind the last step is an evaluation's.
        over = max(e["ts"] + e["dur"] for e in trace.lanes[process, "main"] if e["name"] == "step")
        phases = [e["name"] for e in trace.lanes[process, "compute"]
                  if e["cat"] == "span" and e["ts"] + e["dur"] <= over]
        check(phases == expected_phases(layers) * micro * steps, process, "phases are", phases)
        gathers = sum(e["name"] == "all-gather" for e in trace.lanes[process, "comm"])
        check(ranks == 1 or gathers >= steps * (layers + 1), process, "gathers", gathers, "times")
        session = "dsoffloadd (%s's session)" % process
        if swap == "none":
            check(session not in trace.process.values(), "a session without a daemon")
            continue
        for lane in ("session", "adam-0", "adam-1", "swap " + swap):
            check((session, lane) in trace.lanes, session, "has no lane", lane)
        kinds = {e["name"] for e in trace.lanes[session, "swap " + swap]}
        for kind in ("read parameters", "write parameters", "read optimizer state",
                     "write optimizer state"):
            check(kind in kinds, session, "has no transfers", kind, "but", kinds)
        for e in trace.lanes[session, "swap " + swap]:
            check(e["args"]["bytes"] > 0, "a transfer without bytes:", e)
            check("blob" in e["name"] or e["args"]["unit"] <= layers, "a transfer without unit:", e)


def check_clocks(trace, ranks):
    """Whatever streams and the daemon do for a rank, the bulk of it lies between the begin of its
    thread's first step and the end of the last thing that this does: all by one clock."""
    for r in range(ranks):
        main_lane = trace.lanes["rank %d" % r, "main"]
        lo = min(e["ts"] for e in main_lane if e["name"] == "step")
        hi = max(e["ts"] + e["dur"] for e in main_lane)
        for (process, lane), events in trace.lanes.items():
            inside = sum(lo <= e["ts"] <= hi for e in events)
            if ("rank %d" % r) in process and len(events) >= 10:
                check(inside >= 0.8 * len(events), process, lane, "lies outside of the steps")


def main():
    path, summary_path = sys.argv[1:3]
    ranks, steps, micro, layers = (int(a) for a in sys.argv[3:7])
    trace = Trace(path)
    with open(summary_path, encoding="utf-8") as f:
        summary = json.load(f)["trace"]
    with open(path, encoding="utf-8") as f:
        table = json.load(f)["otherData"]["table"]
    check(summary.pop("file") == path, "the summary names another file")
    check(summary == table, "the summary's table is another than the file's")
    check(table["first_step"] == (3 if steps > 2 else 1) and table["last_step"] == steps,
          "the table is of steps", table["first_step"], "to", table["last_step"])
    trace.nesting()
    check_lanes(trace, ranks, steps, micro, layers, sys.argv[7])
    check_table(trace, table, ranks)
    check_clocks(trace, ranks)
    for w in wrong[:20]:
        print(w[:400])
    sys.exit(1 if wrong else 0)


main()
