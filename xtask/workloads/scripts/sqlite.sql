-- Tables, indices, joins and text in memory.
CREATE TABLE t(id INTEGER PRIMARY KEY, key TEXT, value TEXT, n INTEGER);
BEGIN;
WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 150000)
INSERT INTO t SELECT i, 'key ' || (i * 7919 % 100003), printf('%0*d', 20 + i % 60, i), i % 1000 FROM c;
COMMIT;
CREATE INDEX by_key ON t(key);
CREATE INDEX by_n ON t(n, key);
SELECT count(*), sum(length(value)) FROM t;
SELECT count(*) FROM t a JOIN t b ON a.key = b.key WHERE a.n < 400;
SELECT sum(s) FROM (SELECT n, group_concat(key, ',') AS g, length(group_concat(value)) AS s FROM t GROUP BY n);
UPDATE t SET value = value || ' more' WHERE n % 3 = 0;
DELETE FROM t WHERE n % 5 = 1;
SELECT count(*), sum(length(value)) FROM t;
SELECT length(json_group_array(json_object('k', key, 'v', value))) FROM t;
