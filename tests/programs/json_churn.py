"""Builds, prints, parses and edits JSON documents; prints digests of what comes out."""

import hashlib
import json
import random
import re

rng = random.Random(20)
WORDS = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzäöü", k=rng.randint(1, 12))) for _ in range(3000)]


def document(depth):
    kind = rng.randrange(6) if depth else rng.randrange(3)
    if kind == 0:
        return rng.choice(WORDS) * rng.randrange(4)
    if kind == 1:
        return rng.randrange(10 ** rng.randint(1, 30))
    if kind == 2:
        return rng.choice([None, True, False, rng.random()])
    if kind == 3:
        return [document(depth - 1) for _ in range(rng.randrange(8))]
    return {rng.choice(WORDS): document(depth - 1) for _ in range(rng.randrange(8))}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


documents = [document(7) for _ in range(1200)]
texts = [json.dumps(d, sort_keys=True, ensure_ascii=False) for d in documents]
print("texts", len(texts), sum(map(len, texts)), digest("\n".join(texts)))

# Parse and print again, all at once and indented: one large string, grown by many small pieces.
whole = json.dumps([json.loads(t) for t in texts], indent=2)
print("indented", len(whole), digest(whole))

# A dict whose keys come and go in an order of their own.
table = {}
for step in range(600_000):
    key = rng.randrange(40_000)
    if step % 3 == 2:
        table.pop(key, None)
    else:
        table[key] = table.get(key, "") + WORDS[step % len(WORDS)]
        if len(table[key]) > 200:
            table[key] = table[key][100:]
print("table", len(table), digest(repr(sorted(table.items()))))

# Regular expressions over the large string: matches are lists of small strings.
print("words", len(re.findall(r"[a-zäöü]{4,}", whole)))
print("numbers", sum(int(n) for n in re.findall(r"\b\d{5,20}\b", whole)) % 1_000_003)
replaced = re.sub(r'"([^"\\]{3,6})"', lambda m: "<" + m.group(1)[::-1] + ">", whole)
print("replaced", len(replaced), digest(replaced))

# Large buffers that grow in small and in large steps.
buffer = bytearray()
for step in range(2000):
    buffer += texts[step % len(texts)].encode()
    if step % 7 == 0:
        del buffer[: len(buffer) // 3]
print("buffer", len(buffer), hashlib.sha256(buffer).hexdigest())
