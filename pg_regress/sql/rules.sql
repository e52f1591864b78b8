-- The table of rules: every rule has a code and one sentence.
CREATE EXTENSION ha_ext;
SELECT count(*) = count(DISTINCT rule) AS codes_are_unique,
       count(*) > 20 AS there_are_some,
       bool_and(rule ~ '^[a-z]+\.[a-z_]+$') AS codes_have_one_form,
       bool_and(meaning ~ '^[A-Z].*[.]$') AS sentences_are_sentences
FROM json_to_recordset(ha_all_rules()) AS r (rule text, meaning text);
DROP EXTENSION ha_ext;
