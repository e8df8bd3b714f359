-- Fills tables with generated rows and asks them every kind of question. No random numbers, no clock:
-- the same text comes out of every run.
.bail on
.mode list
PRAGMA page_size = 4096;
PRAGMA cache_size = -8000;

-- A generator of numbers that look random (the constants are those of MINSTD).
CREATE TABLE numbers(i INTEGER PRIMARY KEY, r INTEGER);
INSERT INTO numbers
WITH RECURSIVE n(i, r) AS (SELECT 1, 20 UNION ALL SELECT i + 1, r * 48271 % 2147483647 FROM n WHERE i < 60000)
SELECT i, r FROM n;

CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT, town TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER, note TEXT, body BLOB);
CREATE INDEX orders_by_customer ON orders(customer, cents);

BEGIN;
INSERT INTO customers SELECT i, printf('%s-%d', hex(r % 65536), i), 'town ' || (r % 97) FROM numbers WHERE i <= 3000;
INSERT INTO orders SELECT i, r % 3000 + 1, r % 100000, substr(printf('%X%X', r, r * 7), 1, r % 16), zeroblob(r % 300) FROM numbers;
COMMIT;

SELECT count(*), sum(cents), sum(length(note)), sum(length(body)) FROM orders;

SELECT town, count(*) AS n, sum(cents), group_concat(DISTINCT substr(note, 1, 1))
FROM customers JOIN orders ON orders.customer = customers.id
GROUP BY town ORDER BY n DESC, town LIMIT 30;

-- Sorts that do not fit an index, window functions, a self join.
SELECT id, note FROM orders ORDER BY note DESC, body, id LIMIT 40;
SELECT id, customer, cents, rank() OVER (PARTITION BY customer ORDER BY cents, id), sum(cents) OVER (PARTITION BY customer ORDER BY id)
FROM orders WHERE customer % 500 = 3 ORDER BY customer, id;
SELECT count(*), sum(a.cents - b.cents) FROM orders a JOIN orders b ON a.customer = b.customer AND a.id < b.id;

-- Text: LIKE, GLOB, replace, json, full-text search.
SELECT count(*) FROM orders WHERE note LIKE '%3A%' OR note GLOB '*[3-5]F*';
SELECT sum(length(replace(note, '3', 'three'))) FROM orders;
SELECT length(json_group_array(json_object('id', id, 'note', note))) FROM orders;
SELECT key, count(*) FROM customers, json_each(json_array(name, town, customers.id % 7)) GROUP BY key;
CREATE VIRTUAL TABLE notes USING fts5(note, town);
INSERT INTO notes SELECT note || ' ' || name, town FROM orders JOIN customers ON customers.id = customer;
SELECT count(*) FROM notes WHERE notes MATCH 'town AND 13';
INSERT INTO notes(notes) VALUES ('optimize');

-- Changes: update, delete, upsert, a rolled back transaction, triggers, VACUUM.
CREATE TABLE log(customer INTEGER PRIMARY KEY, changes INTEGER);
CREATE TRIGGER changed AFTER UPDATE ON orders BEGIN
  INSERT INTO log VALUES (new.customer, 1) ON CONFLICT (customer) DO UPDATE SET changes = changes + 1;
END;
UPDATE orders SET note = note || upper(note), cents = cents + 1 WHERE id % 3 = 0;
BEGIN;
DELETE FROM orders WHERE id % 2 = 0;
SELECT count(*) FROM orders;
ROLLBACK;
DELETE FROM orders WHERE id % 5 = 0;
SELECT count(*), sum(changes), max(changes) FROM log;
VACUUM;
PRAGMA integrity_check;
.sha3sum
