-- Units are the findable texts. Their numbers are never used twice, because every process keeps vectors by number.

CREATE TABLE units (
    unit_id INTEGER PRIMARY KEY AUTOINCREMENT,
    ns_hash BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    episode_id TEXT NOT NULL,
    step_number INTEGER NOT NULL,
    recipe INTEGER NOT NULL,
    embed INTEGER NOT NULL,
    text TEXT NOT NULL
);

CREATE UNIQUE INDEX units_subject ON units (ns_hash, subject_id, kind, step_number);

CREATE INDEX units_embed ON units (unit_id) WHERE embed = 1;

CREATE TABLE vectors (
    unit_id INTEGER NOT NULL,
    model_id TEXT NOT NULL,
    ns_hash BIGINT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (unit_id, model_id)
);

-- The words of a unit, analysed before they come here: one space between terms. The text itself is not kept twice.

CREATE VIRTUAL TABLE units_fts USING fts5 (
    terms, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'
);

CREATE VIRTUAL TABLE units_vocab USING fts5vocab (units_fts, 'row');
