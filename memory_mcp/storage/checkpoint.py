"""Signed checkpoints: the heads of all chains at one moment, kept where whoever rewrites the store cannot reach.

A hash chain finds any change of an entry, unless everything behind it is computed anew. Who holds the last checkpoint
finds that too: the chain no longer has, at that sequence, that very hash.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from memory_mcp.errors import CheckpointError
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import GENESIS, namespace_hash
from memory_mcp.storage import queries
from memory_mcp.storage.session import Session
from memory_mcp.storage.verify.findings import Findings, damage, note

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FORMAT = "memory-mcp checkpoint 1"
_FIELDS = frozenset({"format", "store_id", "at", "position", "heads", "public_key", "signature"})


def take(session: Session, store_id: str, at: int, key: Ed25519PrivateKey) -> Json:
    """`{format, store_id, at, position, heads: {namespace: {sequence, hash}}, public_key, signature}`.

    `at` is in microseconds since the epoch, hashes are hexadecimal, key and signature base64 of their raw bytes. The
    signature is over all other fields as JSON without spaces and with sorted keys.
    """
    heads = {
        namespace: {"sequence": sequence, "hash": bytes(digest).hex()}
        for namespace, sequence, digest in queries.chain_heads(session)
    }
    unsigned: Json = {
        "format": FORMAT,
        "store_id": store_id,
        "at": at,
        "position": queries.head_position(session),
        "heads": heads,
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
    }
    return {**unsigned, "signature": base64.b64encode(key.sign(dumps(unsigned).encode())).decode()}


def check(session: Session, store_id: str, checkpoint: Json, public_key: bytes | None = None) -> Findings:
    """Whether the history that a checkpoint has seen is still the history of the store.

    Args:
        public_key: whose signature it must bear. Without it, it only must bear that of the key it names itself.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    named = _decoded(checkpoint["public_key"])
    if public_key is None:
        told = "Name the key with --public-key: anybody can sign a checkpoint with a key of their own."
        yield note("checkpoint", "public_key", "the checkpoint was checked with the key that it names itself", told)
    elif named != public_key:
        yield damage("checkpoint", "public_key", "the checkpoint names another key than the one that was given")
        return
    unsigned = {name: value for name, value in checkpoint.items() if name != "signature"}
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key or named)
        key.verify(_decoded(checkpoint["signature"]), dumps(unsigned).encode())
    except (InvalidSignature, ValueError):
        yield damage("checkpoint", "signature", "the signature does not fit: the checkpoint was changed")
        return
    if checkpoint["store_id"] != store_id:
        yield damage("checkpoint", "store_id", f"the checkpoint is of the store {checkpoint['store_id']}")
        return
    yield from _compare(session, checkpoint)


def _compare(session: Session, checkpoint: Json) -> Findings:
    if queries.head_position(session) < checkpoint["position"]:
        yield damage("checkpoint", "ledger", f"the ledger ends before position {checkpoint['position']}, which it had")
    for namespace, head in sorted(checkpoint["heads"].items()):
        row = session.one(
            "SELECT hash FROM ledger WHERE ns_hash = $1 AND sequence = $2", namespace_hash(namespace), head["sequence"]
        )
        found = GENESIS if head["sequence"] == 0 else row and row[0]
        if not isinstance(found, bytes):
            yield damage("checkpoint", f"{namespace} entry {head['sequence']}", "the entry is not there any more")
        elif found.hex() != head["hash"]:
            problem = "the history up to here was rewritten: the entry has another hash than when it was signed"
            yield damage("checkpoint", f"{namespace} entry {head['sequence']}", problem)


def read(path: Path) -> Json:
    """A checkpoint from a file; whether it is genuine is for `check` to say.

    Raises:
        CheckpointError: it is no checkpoint.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(found, dict) or found.keys() != _FIELDS or found["format"] != FORMAT or not _well_formed(found):
        raise CheckpointError(f"{path} is not a checkpoint of memory-mcp", hint="Make one with `storage checkpoint`.")
    return found


def write(path: Path, checkpoint: Json) -> None:
    """Put a checkpoint into a file, whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(checkpoint, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error


def private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file that only its owner may read; made, with its public half in `<path>.pub`, on first use.

    Raises:
        CheckpointError: it cannot be read or made, holds another kind of key, or others may read it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if not path.exists():
            _make_key(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise CheckpointError(f"others may read the key {path}", hint=f"Run: chmod 600 {path}")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"cannot use the key {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointError(
            f"the key {path} is not an Ed25519 key", hint="Name another file; it is made on first use."
        )
    return key


def public_key(path: Path) -> bytes:
    """The raw bytes of a public key in PEM.

    Raises:
        CheckpointError: it cannot be read, or holds another kind of key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the public key {path}: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CheckpointError(f"{path} does not hold an Ed25519 key")
    return key.public_bytes_raw()


def _make_key(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    path.with_name(f"{path.name}.pub").write_bytes(public)


def _well_formed(found: Json) -> bool:
    texts = all(isinstance(found[name], str) for name in ("store_id", "public_key", "signature"))
    numbers = all(isinstance(found[name], int) for name in ("at", "position"))
    heads = found["heads"]
    return (
        texts
        and numbers
        and isinstance(heads, dict)
        and all(
            isinstance(head, dict) and isinstance(head.get("sequence"), int) and isinstance(head.get("hash"), str)
            for head in heads.values()
        )
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        # no key and no signature: nothing fits it
        return b""
