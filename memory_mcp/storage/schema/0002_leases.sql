-- Who does what only one process at a time may do. expires_at is microseconds of this boot's monotonic clock.

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    fence BIGINT NOT NULL,
    boot_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
