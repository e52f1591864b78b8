-- The hooks of the library let errors of the server through with every field.
CREATE TABLE once (i integer CONSTRAINT only_once PRIMARY KEY);
INSERT INTO once VALUES (1);
CREATE FUNCTION caught(statement text, OUT state text, OUT constraint_name text, OUT table_name text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, constraint_name = CONSTRAINT_NAME, table_name = TABLE_NAME;
END $$;
SELECT * FROM caught('INSERT INTO once VALUES (1)');
SELECT * FROM caught('DO $d$ BEGIN INSERT INTO once VALUES (1); END $d$');
SELECT * FROM caught('ALTER TABLE once ADD CONSTRAINT positive CHECK (i > 1)');
CREATE TABLE once (i integer);
DROP FUNCTION caught;
DROP TABLE once;
