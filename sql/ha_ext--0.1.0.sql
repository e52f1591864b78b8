-- Objects of the extension ha_ext. Written by hand: no schema is generated from the library.
\echo Use "CREATE EXTENSION ha_ext" to load this file. \quit

-- What the views are made of -------------------------------------------------------------------------------------------

CREATE FUNCTION ha_status() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'ha_status_wrapper';
COMMENT ON FUNCTION ha_status() IS 'status page of this node''s loop worker; the ha_ views show it in columns';

CREATE FUNCTION ha_all_rules() RETURNS json
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'ha_all_rules_wrapper';
COMMENT ON FUNCTION ha_all_rules() IS 'every rule a decision can name, with its meaning';

-- Commands -------------------------------------------------------------------------------------------------------------

CREATE FUNCTION ha_switchover(
        candidate text DEFAULT NULL, leader text DEFAULT NULL, scheduled_at timestamptz DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_switchover_wrapper';
COMMENT ON FUNCTION ha_switchover(text, text, timestamptz) IS
    'hand the lead over to a candidate, or to the best member, now or at a time to come';

CREATE FUNCTION ha_cancel_switchover() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_cancel_switchover_wrapper';
COMMENT ON FUNCTION ha_cancel_switchover() IS 'take a scheduled switchover back';

CREATE FUNCTION ha_failover(candidate text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_failover_wrapper';
COMMENT ON FUNCTION ha_failover(text) IS 'make a candidate the leader although there may be no healthy one';

CREATE FUNCTION ha_config() RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_config_wrapper';
COMMENT ON FUNCTION ha_config() IS 'dynamic configuration of the cluster';

CREATE FUNCTION ha_patch_config(patch jsonb) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_patch_config_wrapper';
COMMENT ON FUNCTION ha_patch_config(jsonb) IS 'change the dynamic configuration (merge patch) and return the new one';

CREATE FUNCTION ha_pause() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_pause_wrapper';
COMMENT ON FUNCTION ha_pause() IS 'begin maintenance mode: roles change only by name, and what is stopped stays stopped';

CREATE FUNCTION ha_resume(force boolean DEFAULT false) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'ha_resume_wrapper';
COMMENT ON FUNCTION ha_resume(boolean) IS 'end maintenance mode; force: although a former leader may acknowledge commits';

CREATE FUNCTION ha_who_would_win()
    RETURNS TABLE (member text, may_lead boolean, reason text, lsn pg_lsn, timeline integer, priority integer)
    LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
    SELECT m.member,
           m.obstacle IS NULL,
           CASE WHEN m.leads AND m.known THEN 'It leads.'
                WHEN m.leads THEN 'It led when the store was last reached.'
                ELSE m.obstacle END,
           m.lsn, m.timeline, m.priority
    FROM jsonb_to_recordset(ha_status() -> 'members') AS m (
        member text, leads boolean, known boolean, obstacle text, lsn pg_lsn, timeline integer, priority integer)
    ORDER BY m.obstacle IS NULL DESC, m.lsn DESC NULLS LAST, m.priority DESC, m.member;
END;
COMMENT ON FUNCTION ha_who_would_win() IS 'why each member could or could not lead now, the likeliest first';

-- Views ----------------------------------------------------------------------------------------------------------------

CREATE VIEW ha_cluster AS
    SELECT s ->> 'scope' AS scope,
           s ->> 'name' AS this_member,
           s ->> 'leader' AS leader,
           s ->> 'system_id' AS system_id,
           (s ->> 'pause')::boolean AS paused,
           ARRAY(SELECT jsonb_array_elements_text(s -> 'unbound')) AS unbound,
           to_timestamp((s -> 'scheduled' ->> 'unix_ms')::bigint / 1000.0) AS switchover_at,
           s -> 'scheduled' ->> 'from' AS switchover_from,
           s -> 'scheduled' ->> 'to' AS switchover_to,
           s ->> 'store' AS store,
           s ->> 'seat' AS seat,
           s ->> 'in_place_obstacle' AS in_place_obstacle,
           to_timestamp((s ->> 'written_unix_ms')::bigint / 1000.0) AS as_of
    FROM (SELECT ha_status() AS s OFFSET 0) AS page
    WHERE s IS NOT NULL;
COMMENT ON VIEW ha_cluster IS 'the cluster as this node sees it';
COMMENT ON COLUMN ha_cluster.unbound IS
    'members that maintenance mode lets acknowledge commits without a lease, or that did and have not taken it back';
COMMENT ON COLUMN ha_cluster.switchover_at IS 'when a switchover is scheduled for, by the clock of whoever leads then';
COMMENT ON COLUMN ha_cluster.switchover_from IS 'who has to lead at that time';
COMMENT ON COLUMN ha_cluster.switchover_to IS 'who is to lead then; null for the best member';
COMMENT ON COLUMN ha_cluster.in_place_obstacle IS
    'why a switchover would stop this leader now instead of demoting it in place';

CREATE VIEW ha_members AS
    SELECT m.member, m.role, m.state, m.address, m.timeline, m.lsn, m.lag_bytes, m.tags, m.api_url, m.version,
           m.ha_ext_version, m.pending_restart, m.pending_restart_reason
    FROM jsonb_to_recordset(ha_status() -> 'members') AS m (
        member text, role text, state text, address text, timeline integer, lsn pg_lsn, lag_bytes bigint, tags jsonb,
        api_url text, version text, ha_ext_version text, pending_restart boolean, pending_restart_reason jsonb);
COMMENT ON VIEW ha_members IS 'members of the cluster';

CREATE VIEW ha_history AS
    SELECT h.timeline, h.lsn, h.reason, h.at, h.new_leader
    FROM jsonb_to_recordset(ha_status() -> 'history') AS h (
        timeline integer, lsn pg_lsn, reason text, at timestamptz, new_leader text);
COMMENT ON VIEW ha_history IS 'timelines that ended: where, when, and who led next';

CREATE VIEW ha_lease AS
    SELECT l ->> 'lease' AS lease,
           l ->> 'session' AS session,
           to_timestamp((l ->> 'deadline_unix_ms')::bigint / 1000.0) AS deadline,
           (l ->> 'ttl_ms')::bigint * interval '1 millisecond' AS ttl,
           (l ->> 'fence_open')::boolean AS fence_open,
           (l ->> 'claimed_timeline')::integer AS claimed_timeline
    FROM (SELECT ha_status() -> 'lease' AS l OFFSET 0) AS page
    WHERE l IS NOT NULL;
COMMENT ON VIEW ha_lease IS
    'the leader lease of this node; fence_open: whether it acknowledges commits, past the deadline in maintenance and failsafe mode';

CREATE VIEW ha_rules AS
    SELECT r.rule, r.meaning, r.rule = now.rule AS in_force
    FROM json_to_recordset(ha_all_rules()) AS r (rule text, meaning text)
         CROSS JOIN (SELECT ha_status() ->> 'rule' AS rule OFFSET 0) AS now;
COMMENT ON VIEW ha_rules IS 'every rule a decision can name, and the one in force on this node';

CREATE VIEW ha_events AS
    SELECT e.number, to_timestamp(e.unix_ms / 1000.0) AS at, e.kind, e.code, e.text
    FROM jsonb_to_recordset(ha_status() -> 'events') AS e (
        number bigint, unix_ms bigint, kind text, code text, text text);
COMMENT ON VIEW ha_events IS 'what changed on this node, and why';

CREATE VIEW ha_settings AS
    SELECT s.name, s.value, s.unit, s.origin
    FROM jsonb_to_recordset(ha_status() -> 'settings') AS s (name text, value text, unit text, origin text);
COMMENT ON VIEW ha_settings IS 'settings in force, and where each comes from';

-- Privileges -----------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
    ha_status(), ha_all_rules(), ha_switchover(text, text, timestamptz), ha_cancel_switchover(), ha_failover(text),
    ha_config(), ha_patch_config(jsonb), ha_pause(), ha_resume(boolean), ha_who_would_win()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ha_status(), ha_all_rules(), ha_config(), ha_who_would_win() TO pg_monitor;
GRANT SELECT ON ha_cluster, ha_members, ha_history, ha_lease, ha_rules, ha_events, ha_settings TO pg_monitor;
