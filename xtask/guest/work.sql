-- Generated rows, joined, sorted (by threads where the build has them), grouped and changed.
.bail on
PRAGMA cache_size = -4000;
PRAGMA threads = 3;
CREATE TABLE numbers(i INTEGER PRIMARY KEY, r INTEGER);
INSERT INTO numbers
WITH RECURSIVE n(i, r) AS (SELECT 1, 20 UNION ALL SELECT i + 1, r * 48271 % 2147483647 FROM n WHERE i < 6000)
SELECT i, r FROM n;
CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT, town TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER, note TEXT, body BLOB);
CREATE INDEX orders_by_customer ON orders(customer, cents);
BEGIN;
INSERT INTO customers SELECT i, printf('%X-%d', r % 65536, i), 'town ' || (r % 17) FROM numbers WHERE i <= 300;
INSERT INTO orders SELECT i, r % 300 + 1, r % 100000, substr(printf('%X%X', r, r * 7), 1, r % 16), zeroblob(r % 300) FROM numbers;
COMMIT;
SELECT count(*), sum(cents), sum(length(note)), sum(length(body)) FROM orders;
SELECT town, count(*) AS n, sum(cents), group_concat(DISTINCT substr(note, 1, 1))
FROM customers JOIN orders ON orders.customer = customers.id GROUP BY town ORDER BY n DESC, town;
SELECT id, note FROM orders ORDER BY note DESC, body, id LIMIT 20;
SELECT sum(length(replace(note, '3', 'three'))) FROM orders;
UPDATE orders SET note = note || upper(note), cents = cents + 1 WHERE id % 3 = 0;
BEGIN;
DELETE FROM orders WHERE id % 2 = 0;
ROLLBACK;
DELETE FROM orders WHERE id % 5 = 0;
SELECT count(*), sum(cents) FROM orders;
VACUUM;
