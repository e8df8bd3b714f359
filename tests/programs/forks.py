"""Forks while other threads allocate: a pool of forked workers, plain fork, and subprocesses."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

warnings.simplefilter("ignore")
sys.setswitchinterval(0.0002)
stop = threading.Event()


def churn():
    """Keeps the allocator's locks busy, so that some fork happens while one is held."""
    kept = {}
    step = 0
    while not stop.is_set():
        step += 1
        kept[step % 500] = bytearray(step * 7919 % 60_000)
        " ".join(map(str, range(step % 400)))


def work(number):
    rows = [{"n": n, "text": str(n) * (n % 50)} for n in range(number, number + 300)]
    return number, sum(len(row["text"]) for row in rows), sorted(r["text"] for r in rows)[-1]


def fork_once(number):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, repr(work(number)[:2]).encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 4096).decode()
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return text, status


background = [threading.Thread(target=churn, daemon=True) for _ in range(3)]
for thread in background:
    thread.start()

with multiprocessing.get_context("fork").Pool(4) as pool:
    for number, length, last in pool.map(work, range(0, 12_000, 60)):
        print(number, length, last[:20])

for number in range(60):
    print(*fork_once(number))

CHILD = "import sys; print(sum(len(str(n)) for n in range(int(sys.argv[1]))))"
for number in (10, 1_000, 100_000):
    run = subprocess.run([sys.executable, "-c", CHILD, str(number)], capture_output=True, text=True, check=True)
    print(number, run.stdout.strip(), run.stderr)

stop.set()
for thread in background:
    thread.join()
