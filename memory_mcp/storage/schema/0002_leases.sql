-- Who does what only one process at a time may do. expires_at is microseconds of this boot's monotonic clock.

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    fence BIGINT NOT NULL,
    boot_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- what was shown of an episode or a pattern that is forgotten
CREATE INDEX receipts_memory ON receipts (ns_hash, memory_id);
