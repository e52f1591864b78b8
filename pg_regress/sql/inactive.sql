-- A server that preloads the library but is not part of a cluster: nothing of ours is at work.
CREATE EXTENSION ha_ext;
SHOW ha_ext.config_file;
SHOW ha_ext.fence_reads;

CREATE TABLE plain (i integer PRIMARY KEY);
INSERT INTO plain VALUES (1);
SELECT * FROM plain;
VACUUM plain;
DROP TABLE plain;
SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'ha_ext%';

SELECT * FROM ha_cluster;
SELECT * FROM ha_members;
SELECT ha_switchover();
SELECT ha_switchover(scheduled_at => now() + '1 hour');
SELECT ha_cancel_switchover();
SELECT ha_config();
SELECT ha_patch_config('{"loop_wait": 5}');

-- What exists, for whom.
-- From 17 on the row types of views are listed too.
SELECT d FROM (SELECT pg_describe_object(classid, objid, 0) COLLATE "C" FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ha_ext')) o (d) WHERE d NOT LIKE 'type %' ORDER BY d;
SELECT p.proname, r.rolname, has_function_privilege(r.oid, p.oid, 'EXECUTE') AS may
FROM pg_proc p, (VALUES ('pg_monitor'), ('pg_read_all_data')) v (role) JOIN pg_roles r ON r.rolname = v.role
WHERE p.proname LIKE 'ha\_%' ORDER BY p.proname, r.rolname;
SELECT c.relname, has_table_privilege('pg_monitor', c.oid, 'SELECT') AS monitor,
       has_table_privilege('pg_signal_backend', c.oid, 'SELECT') AS others
FROM pg_class c WHERE c.relname LIKE 'ha\_%' AND c.relkind = 'v' ORDER BY c.relname;
\d ha_members
\d ha_events

-- It can be put into any schema, moved and dropped.
CREATE SCHEMA elsewhere;
ALTER EXTENSION ha_ext SET SCHEMA elsewhere;
SELECT * FROM elsewhere.ha_who_would_win();
DROP EXTENSION ha_ext;
