"""Signed checkpoints: a history that was rewritten as a whole is found by whoever holds only the last one."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.errors import CheckpointError, StoreCorruptError
from memory_mcp.records.base import dumps
from memory_mcp.records.ledger import GENESIS, LedgerEntry, payload_digest
from memory_mcp.services.verification import checkpoint_of
from memory_mcp.storage import checkpoint as checkpoints
from memory_mcp.storage import queries
from tests.storage.sound import NAMESPACES, contents, opened, run, told, verified
from tests.storage.support import carry_out, create

AT = 1_700_000_000_000_000


def sign(store: Path, key: Path) -> dict[str, Any]:
    return checkpoint_of(store, key, AT)


def rewrite(store: Path, *, namespace: str = "default", actor: str = "mallory", payload: bool = False) -> None:
    """Rewrite a history so well that it fits together: entries, hashes and head."""
    with opened(store) as session:
        previous, sequence = GENESIS, 0
        for entry in queries.chain(session, namespace, 0, 10_000):
            text = entry.payload
            if payload and text is not None and entry.operation == "episode.created":
                text = text.replace("flaky", "sound")
            forged = replace(
                entry,
                actor=actor if entry.sequence == 2 else entry.actor,
                payload=text,
                payload_digest=payload_digest(text) if text is not None else entry.payload_digest,
                previous_hash=previous,
            )
            forged = replace(forged, hash=forged.expected_hash())
            _put(session, forged)
            previous, sequence = forged.hash, forged.sequence
        session.run(
            "UPDATE namespaces SET head_hash = $2, head_sequence = $3 WHERE namespace = $1",
            namespace,
            previous,
            sequence,
        )


def _put(session: Any, entry: LedgerEntry) -> None:
    names = ("actor", "payload", "payload_digest", "previous_hash", "hash")
    sets = ", ".join(f"{name} = ${number}" for number, name in enumerate(names, 2))
    session.run(
        f"UPDATE ledger SET {sets} WHERE position = $1", entry.position, *(getattr(entry, name) for name in names)
    )


def test_a_checkpoint_holds_the_heads_of_all_chains_and_fits_its_store(store: Path, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "k.pem"
    signed = sign(store, key)
    assert signed["at"] == AT
    assert set(signed["heads"]) == set(NAMESPACES)
    public = checkpoints.public_key(key.with_name("k.pem.pub"))
    report = verified(store, checkpoint=signed, public_key=public)
    assert report.findings == []
    assert signed["store_id"] == report.store_id
    assert signed["position"] == report.position


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("quick", [False, True])
def test_a_history_rewritten_as_a_whole_is_found_only_with_the_checkpoint(
    store: Path, tmp_path: Path, namespace: str, quick: bool
) -> None:
    signed = sign(store, tmp_path / "k.pem")
    public = base64.b64decode(signed["public_key"])
    rewrite(store, namespace=namespace)
    assert told(verified(store, quick=quick)) == []
    found = told(verified(store, checkpoint=signed, public_key=public, quick=quick))
    assert [item[0] for item in found] == ["checkpoint"]
    assert found[0][1] == f"{namespace} entry {signed['heads'][namespace]['sequence']}"
    assert "rewritten" in found[0][2]


def test_entries_that_came_later_do_not_disturb_a_checkpoint(store: Path, tmp_path: Path) -> None:
    early = sign(store, tmp_path / "k.pem")
    public = base64.b64decode(early["public_key"])
    with opened(store) as session:
        carry_out(session, create("later"))
    late = sign(store, tmp_path / "k.pem")
    assert late["position"] == early["position"] + 1
    assert late["heads"]["default"] != early["heads"]["default"]
    for signed in (early, late):
        assert told(verified(store, checkpoint=signed, public_key=public)) == []


def test_a_history_that_was_cut_off_is_found(store: Path, tmp_path: Path) -> None:
    before = contents(store)
    with opened(store) as session:
        carry_out(session, create("later"))
    signed = sign(store, tmp_path / "k.pem")
    run(store, "DELETE FROM ledger WHERE subject_id = 'later'", "DELETE FROM episodes WHERE episode_id = 'later'")
    row = next(row for row in before["namespaces"] if row[1] == "default")
    with opened(store) as session:
        session.run("UPDATE namespaces SET head_sequence = $1, head_hash = $2 WHERE namespace = 'default'", *row[3:])
        session.run("DELETE FROM units_fts WHERE rowid IN (SELECT unit_id FROM units WHERE subject_id = 'later')")
        session.run("DELETE FROM units WHERE subject_id = 'later'")
    assert told(verified(store)) == []
    problems = [item[2] for item in told(verified(store, checkpoint=signed))]
    assert any("ends before" in problem for problem in problems)
    assert any("not there any more" in problem for problem in problems)


def test_erasing_payloads_does_not_disturb_a_checkpoint(store: Path, tmp_path: Path) -> None:
    signed = sign(store, tmp_path / "k.pem")
    run(store, "UPDATE ledger SET payload = NULL")
    assert "checkpoint" not in {
        item.check for item in verified(store, checkpoint=signed).findings if item.severity == "error"
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("at", AT + 1),
        ("position", 1),
        ("store_id", "another"),
        ("heads", {}),
        ("signature", base64.b64encode(bytes(64)).decode()),
        ("signature", "no base64!"),
        ("public_key", base64.b64encode(bytes(32)).decode()),
        ("public_key", "short"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(store: Path, tmp_path: Path, name: str, value: Any) -> None:
    signed = {**sign(store, tmp_path / "k.pem"), name: value}
    found = [item for item in told(verified(store, checkpoint=signed)) if item[1] != "public_key"]
    assert [item[:2] for item in found] == [("checkpoint", "signature")]


def test_a_checkpoint_signed_with_another_key_is_refused(store: Path, tmp_path: Path) -> None:
    """Who rewrites the history can sign it too, but not with the key that somebody else holds."""
    public = base64.b64decode(sign(store, tmp_path / "mine.pem")["public_key"])
    rewrite(store)
    forged = sign(store, tmp_path / "theirs.pem")
    unnamed = verified(store, checkpoint=forged)
    assert [(item.severity, item.subject) for item in unnamed.findings] == [("warning", "public_key")]
    assert unnamed.errors == 0
    found = told(verified(store, checkpoint=forged, public_key=public))
    assert [item[:2] for item in found] == [("checkpoint", "public_key")]
    # not either when they name the key of somebody else
    dressed = {**forged, "public_key": base64.b64encode(public).decode()}
    assert [item[1] for item in told(verified(store, checkpoint=dressed, public_key=public))] == ["signature"]


def test_a_checkpoint_of_another_store_is_refused(store: Path, tmp_path: Path) -> None:
    signed = sign(store, tmp_path / "k.pem")
    run(store, "UPDATE meta SET value = 'another' WHERE key = 'store_id'")
    found = told(verified(store, checkpoint=signed, public_key=base64.b64decode(signed["public_key"])))
    assert [item[:2] for item in found] == [("checkpoint", "store_id")]


def test_a_ledger_that_is_not_whole_is_not_signed(store: Path, tmp_path: Path) -> None:
    run(store, "UPDATE ledger SET actor = 'x' WHERE position = 1")
    with pytest.raises(StoreCorruptError):
        sign(store, tmp_path / "k.pem")
    assert not (tmp_path / "k.pem").exists()


def test_the_signature_is_over_canonical_json_so_that_any_program_can_check_it(store: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    signed = json.loads(json.dumps(sign(store, tmp_path / "k.pem")))
    signature = base64.b64decode(signed.pop("signature"))
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text == dumps(signed)
    Ed25519PublicKey.from_public_bytes(base64.b64decode(signed["public_key"])).verify(signature, text.encode())


@pytest.mark.skipif(os.name != "posix", reason="modes of files are a matter of POSIX")
def test_the_private_key_is_made_once_and_only_its_owner_may_read_it(store: Path, tmp_path: Path) -> None:
    key = tmp_path / "new" / "k.pem"
    first = sign(store, key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    assert sign(store, key)["public_key"] == first["public_key"]
    key.chmod(0o644)
    with pytest.raises(CheckpointError) as refused:
        sign(store, key)
    assert "chmod 600" in refused.value.hint


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_refused(store: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "k.pem"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(CheckpointError):
        sign(store, file)
    with pytest.raises(CheckpointError):
        checkpoints.public_key(file)


def test_a_key_of_another_kind_is_refused(store: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    file = tmp_path / "k.pem"
    file.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    file.chmod(0o600)
    with pytest.raises(CheckpointError):
        sign(store, file)
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    file.write_bytes(public)
    with pytest.raises(CheckpointError):
        checkpoints.public_key(file)


def test_a_checkpoint_is_read_back_as_it_was_written(store: Path, tmp_path: Path) -> None:
    signed = sign(store, tmp_path / "k.pem")
    checkpoints.write(tmp_path / "out" / "c.json", signed)
    assert checkpoints.read(tmp_path / "out" / "c.json") == signed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    "change", [{"heads": []}, {"heads": {"a": 1}}, {"at": "x"}, {"format": "other 1"}, {"more": 1}]
)
def test_a_file_that_is_no_checkpoint_is_refused(store: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "c.json").write_text(json.dumps({**sign(store, tmp_path / "k.pem"), **change}))
    with pytest.raises(CheckpointError):
        checkpoints.read(tmp_path / "c.json")
    with pytest.raises(CheckpointError):
        checkpoints.read(tmp_path / "missing.json")
