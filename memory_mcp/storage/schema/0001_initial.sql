-- Times are microseconds since the epoch, JSON is text, hashes are 32 bytes. ns_hash leads every key of a record.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE namespaces (
    ns_hash BIGINT PRIMARY KEY,
    namespace TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    head_sequence BIGINT NOT NULL,
    head_hash BLOB NOT NULL
);

CREATE TABLE ledger (
    position INTEGER PRIMARY KEY,
    ns_hash BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    at BIGINT NOT NULL,
    namespace TEXT NOT NULL,
    actor TEXT NOT NULL,
    operation TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    write_id TEXT NOT NULL,
    payload TEXT,
    payload_digest BLOB NOT NULL,
    previous_hash BLOB NOT NULL,
    hash BLOB NOT NULL
);

CREATE UNIQUE INDEX ledger_chain ON ledger (ns_hash, sequence);

CREATE INDEX ledger_write ON ledger (write_id);

CREATE INDEX ledger_operation ON ledger (operation, position);

CREATE INDEX ledger_subject ON ledger (subject_id, position);

CREATE TABLE followers (
    name TEXT PRIMARY KEY,
    position BIGINT NOT NULL
);

CREATE TABLE episodes (
    ns_hash BIGINT NOT NULL,
    episode_id TEXT NOT NULL,
    namespace TEXT NOT NULL,
    actor TEXT NOT NULL,
    status TEXT NOT NULL,
    task_type TEXT NOT NULL,
    domain TEXT NOT NULL,
    task_description TEXT NOT NULL,
    context TEXT NOT NULL,
    metadata TEXT NOT NULL,
    outcome_type TEXT,
    outcome TEXT,
    reward_total REAL,
    reward TEXT,
    reflection TEXT,
    step_count INTEGER NOT NULL,
    error_count INTEGER NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    version BIGINT NOT NULL,
    PRIMARY KEY (ns_hash, episode_id)
);

CREATE INDEX episodes_recent ON episodes (ns_hash, status, started_at);

CREATE TABLE steps (
    ns_hash BIGINT NOT NULL,
    episode_id TEXT NOT NULL,
    step_number INTEGER NOT NULL,
    at BIGINT NOT NULL,
    tool TEXT NOT NULL,
    action TEXT NOT NULL,
    parameters TEXT NOT NULL,
    result TEXT NOT NULL,
    latency_ms REAL,
    tokens_used BIGINT,
    predicted_outcome REAL,
    version BIGINT NOT NULL,
    PRIMARY KEY (ns_hash, episode_id, step_number),
    FOREIGN KEY (ns_hash, episode_id) REFERENCES episodes (ns_hash, episode_id) ON DELETE CASCADE
);

CREATE TABLE receipts (
    ns_hash BIGINT NOT NULL,
    episode_id TEXT NOT NULL,
    shown_after INTEGER NOT NULL,
    memory_kind TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    rank INTEGER NOT NULL,
    advice TEXT NOT NULL,
    shown_at BIGINT NOT NULL,
    used INTEGER,
    PRIMARY KEY (ns_hash, episode_id, shown_after, memory_kind, memory_id),
    FOREIGN KEY (ns_hash, episode_id) REFERENCES episodes (ns_hash, episode_id) ON DELETE CASCADE
);

CREATE TABLE credits (
    ns_hash BIGINT NOT NULL,
    memory_kind TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    shown REAL NOT NULL,
    shown_successes REAL NOT NULL,
    used REAL NOT NULL,
    used_successes REAL NOT NULL,
    PRIMARY KEY (ns_hash, memory_kind, memory_id)
);

CREATE TABLE patterns (
    ns_hash BIGINT NOT NULL,
    pattern_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    group_id TEXT NOT NULL,
    body TEXT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (ns_hash, pattern_id)
);

CREATE INDEX patterns_group ON patterns (ns_hash, group_id);

CREATE TABLE pattern_counts (
    ns_hash BIGINT NOT NULL,
    pattern_id TEXT NOT NULL,
    domain TEXT NOT NULL,
    task_type TEXT NOT NULL,
    successes BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    tried BIGINT NOT NULL,
    resolved BIGINT NOT NULL,
    PRIMARY KEY (ns_hash, pattern_id, domain, task_type)
);

CREATE TABLE group_counts (
    ns_hash BIGINT NOT NULL,
    group_id TEXT NOT NULL,
    domain TEXT NOT NULL,
    task_type TEXT NOT NULL,
    successes BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    tried BIGINT NOT NULL,
    resolved BIGINT NOT NULL,
    PRIMARY KEY (ns_hash, group_id, domain, task_type)
);

CREATE TABLE pattern_sources (
    ns_hash BIGINT NOT NULL,
    pattern_id TEXT NOT NULL,
    episode_id TEXT NOT NULL,
    success INTEGER NOT NULL,
    tried INTEGER NOT NULL,
    resolved INTEGER NOT NULL,
    steps TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (ns_hash, pattern_id, episode_id)
);

CREATE INDEX pattern_sources_episode ON pattern_sources (ns_hash, episode_id);

CREATE TABLE scope_stats (
    ns_hash BIGINT NOT NULL,
    domain TEXT NOT NULL,
    task_type TEXT NOT NULL,
    episodes BIGINT NOT NULL,
    successes BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    reward_sum REAL NOT NULL,
    steps_sum REAL NOT NULL,
    log_steps_sum REAL NOT NULL,
    timed BIGINT NOT NULL,
    log_seconds_sum REAL NOT NULL,
    PRIMARY KEY (ns_hash, domain, task_type)
);

CREATE TABLE tool_stats (
    ns_hash BIGINT NOT NULL,
    domain TEXT NOT NULL,
    task_type TEXT NOT NULL,
    tool TEXT NOT NULL,
    calls BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    timed BIGINT NOT NULL,
    latency_ms_sum REAL NOT NULL,
    PRIMARY KEY (ns_hash, domain, task_type, tool)
);
