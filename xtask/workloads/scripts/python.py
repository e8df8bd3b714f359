"""Objects, dictionaries, JSON, regular expressions and sorting in Python."""
import json
import re


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while True:
            side = "left" if key < node.key else "right"
            below = getattr(node, side)
            if below is None:
                setattr(node, side, Node(key))
                return
            node = below


state = 1


def random(n):
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return (state >> 33) % n


root = Node(500000)
for _ in range(20000):
    root.insert(random(1000000))

table = {}
for i in range(150000):
    table.setdefault("key %d" % random(20000), []).append(i)
total = sum(len(v) for v in table.values())
assert total == 150000

text = json.dumps(table)
again = json.loads(text)
assert again == table

words = re.findall(r"key \d+", text)
words.sort(key=lambda w: (len(w), w))
big = 1
for i in range(1, 2500):
    big *= i
print(len(words), words[0], words[-1], len(hex(big)))
