"""Threads that hand buffers to each other while zlib and hashlib work outside of the interpreter's lock."""

import hashlib
import queue
import threading
import zlib

THREADS = 8
ITEMS = 2000

made, packed, done = queue.Queue(20), queue.Queue(20), queue.Queue()


def make(first):
    for number in range(first, ITEMS, THREADS):
        made.put((number, bytes(range(number % 251 + 1)) * (number * 37 % 1500 + 1)))


def pack():
    while (item := made.get()) is not None:
        number, content = item
        packed.put((number, len(content), zlib.compress(content, 6)))


def check():
    while (item := packed.get()) is not None:
        number, length, content = item
        content = zlib.decompress(content)
        assert len(content) == length
        done.put((number, length, hashlib.sha256(content).hexdigest()))


def start(threads):
    for thread in threads:
        thread.start()
    return threads


makers = start([threading.Thread(target=make, args=[first]) for first in range(THREADS)])
packers = start([threading.Thread(target=pack) for _ in range(THREADS)])
checkers = start([threading.Thread(target=check) for _ in range(THREADS)])
for threads, output in ((makers, made), (packers, packed), (checkers, None)):
    for thread in threads:
        thread.join()
    if output is not None:
        for _ in range(THREADS):
            output.put(None)

for number, length, digest in sorted(done.get() for _ in range(ITEMS)):
    print(number, length, digest)

# Threads that live for a moment only: each is taken in and let go by the allocator.
total = []
for _ in range(300):
    thread = threading.Thread(target=lambda: total.append(len([str(n) for n in range(200)])))
    thread.start()
    thread.join()
print("short lives", sum(total))
